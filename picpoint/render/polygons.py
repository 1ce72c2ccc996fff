"""How are polygons cut into triangles? Convex ones as fans, others ear by ear."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from numba import njit

# A corner turns inwards if its cross product exceeds this share of the polygon's, the other way.
_MIN_TURN = 1e-6
# Cutting ears costs up to the cube of the corners; larger polygons become fans whatever they are.
_MAX_EAR_CORNERS = 512


@dataclass(frozen=True, slots=True)
class Triangulation:
    """Triangles of a list of polygons.

    Attributes:
        rows: which rows of the list of all corners make up each triangle.
        polygon: which polygon each triangle is from.
    """

    rows: Int64[np.ndarray, "m 3"]
    polygon: Int64[np.ndarray, " m"]


def triangulate(
    positions: Float64[np.ndarray, "n 3"],
    corners: Int[np.ndarray, " c"],
    sizes: Int64[np.ndarray, " p"],
) -> Triangulation:
    """Cut polygons into triangles of the same winding.

    Args:
        positions: of all vertices.
        corners: which vertex each corner is, of all polygons, one polygon after the other.
        sizes: number of corners of each; those with fewer than 3 have no surface.
    """
    if (sizes == 3).all():  # as most files are, and ten times faster
        count = len(sizes)
        return Triangulation(np.arange(3 * count).reshape(-1, 3), np.arange(count))
    num_triangles = np.maximum(sizes - 2, 0)
    first_corner, first_triangle = (
        np.cumsum(sizes) - sizes,
        np.cumsum(num_triangles) - num_triangles,
    )
    polygon = np.repeat(np.arange(len(sizes)), num_triangles)
    step = np.arange(len(polygon)) - first_triangle[polygon]  # 0, 1, 2 ... within each polygon
    apex = first_corner[polygon]
    rows = np.stack([apex, apex + step + 1, apex + step + 2], axis=1)
    # A triangle has no corner that could turn inwards.
    large = np.flatnonzero(sizes > 3)
    outlines = positions[corners[np.repeat(sizes > 3, sizes)]]
    normals = newell_normals(outlines, sizes[large])
    turns_inwards = _turns_inwards(outlines, sizes[large], normals)
    for row in np.flatnonzero(turns_inwards & (sizes[large] <= _MAX_EAR_CORNERS)):
        bent = large[row]
        begin, size = first_corner[bent], sizes[bent]
        flat = _flatten(positions[corners[begin : begin + size]], normals[row])
        rows[first_triangle[bent] :][: size - 2] = begin + _cut_ears(flat)
    return Triangulation(rows=rows, polygon=polygon)


def newell_normals(
    corners: Float64[np.ndarray, "c 3"], sizes: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, "p 3"]:
    """Compute the normal of each polygon, as long as twice its area, also of a bent one."""
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    anchor = corners[first] if len(corners) else corners
    crosses = np.cross(corners - anchor, corners[_neighbour(sizes, 1)] - anchor)
    return _sum_polygons(crosses, sizes)


def _turns_inwards(
    corners: Float64[np.ndarray, "c 3"],
    sizes: Int64[np.ndarray, " p"],
    normals: Float64[np.ndarray, "p 3"],
) -> Bool[np.ndarray, " p"]:
    """Tell which polygons have a corner that turns inwards."""
    to_next = corners[_neighbour(sizes, 1)] - corners
    from_previous = corners - corners[_neighbour(sizes, -1)]
    polygon = np.repeat(np.arange(len(sizes)), sizes)
    turns = (np.cross(from_previous, to_next) * normals[polygon]).sum(axis=1)
    is_inward = turns < -_MIN_TURN * (normals * normals).sum(axis=1)[polygon]
    return np.bincount(polygon[is_inward], minlength=len(sizes)) > 0


def _neighbour(sizes: Int64[np.ndarray, " p"], step: int) -> Int64[np.ndarray, " c"]:
    """Give the row of the next (1) or previous (-1) corner of each corner, around its polygon."""
    first, size = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    return first + (np.arange(len(first)) - first + step) % size


def _sum_polygons(
    values: Float64[np.ndarray, "c 3"], sizes: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, "p 3"]:
    polygon = np.repeat(np.arange(len(sizes)), sizes)
    sums = [np.bincount(polygon, weights=column, minlength=len(sizes)) for column in values.T]
    return np.stack(sums, axis=1).astype(np.float64)


def _flatten(
    corners: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "n 2"]:
    """Look at a polygon along an axis, from where it runs counter-clockwise."""
    axis = int(np.abs(normal).argmax())
    flat = np.delete(corners, axis, axis=1)
    # Without y, x and z are left, which see the world mirrored.
    is_mirrored = (normal[axis] < 0) != (axis == 1)
    return np.ascontiguousarray(flat[:, ::-1] if is_mirrored else flat)


@njit(cache=True, nogil=True)
@no_type_check
def _cut_ears(flat: np.ndarray) -> np.ndarray:
    """Cut ears off a counter-clockwise polygon until a triangle is left."""
    size = len(flat)
    after = (np.arange(size) + 1) % size
    before = (np.arange(size) - 1) % size
    triangles = np.empty((size - 2, 3), dtype=np.int64)
    corner, num_passed, left = 0, 0, size
    while left > 2:
        a, b, c = before[corner], corner, after[corner]
        # After a whole round without an ear the polygon crosses itself: cut somewhere.
        if num_passed > left or _is_ear(flat, after, a, b, c):
            triangles[size - left] = (a, b, c)
            after[a], before[c] = c, a
            left -= 1
            num_passed = 0
        num_passed += 1
        corner = c
    return triangles


@njit(cache=True, nogil=True)
@no_type_check
def _is_ear(flat: np.ndarray, after: np.ndarray, a: int, b: int, c: int) -> bool:
    """Tell whether a corner turns outwards and no other corner lies in its triangle."""
    if _turn(flat, a, b, c) <= 0:
        return False
    other = after[c]
    while other != a:
        is_same = False
        for corner in (a, b, c):
            is_same |= flat[other, 0] == flat[corner, 0] and flat[other, 1] == flat[corner, 1]
        if not is_same and (
            _turn(flat, a, b, other) >= 0
            and _turn(flat, b, c, other) >= 0
            and _turn(flat, c, a, other) >= 0
        ):
            return False
        other = after[other]
    return True


@njit(cache=True, nogil=True)
@no_type_check
def _turn(flat: np.ndarray, a: int, b: int, c: int) -> float:
    """Give twice the area of a triangle, positive if it runs counter-clockwise."""
    return (flat[b, 0] - flat[a, 0]) * (flat[c, 1] - flat[a, 1]) - (flat[b, 1] - flat[a, 1]) * (
        flat[c, 0] - flat[a, 0]
    )
