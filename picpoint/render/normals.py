"""Which way does a surface face, smoothly where it is round and sharply at its edges?"""

import math
from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit

# Faces that meet at a smaller angle are parts of one round surface.
CREASE_RAD = math.radians(40)
# A vertex where more corners meet is shaded flat: smoothing costs the square of their number.
_MAX_CORNERS_AT_VERTEX = 512


def face_normals(
    vertices: Float32[np.ndarray, "n 3"], faces: Int32[np.ndarray, "m 3"]
) -> Float64[np.ndarray, "m 3"]:
    """Compute unit normals by the right-hand rule; every face needs an area."""
    corners = vertices.astype(np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def crease_normals(
    vertices: Float32[np.ndarray, "n 3"],
    faces: Int32[np.ndarray, "m 3"],
    crease_rad: float = CREASE_RAD,
) -> Float32[np.ndarray, "m 3 3"]:
    """Compute unit normals per face corner: the mean of the faces around it, up to a crease.

    Each face weighs by its angle at the corner, so how a surface is cut into triangles has no say.
    Faces whose winding disagrees are smoothed together all the same.

    Args:
        vertices: positions; equal ones count as the same vertex.
        faces: vertex indices; every face needs an area.
        crease_rad: faces at a larger angle to a corner's own face are left out of its mean.

    Returns:
        One normal per corner, on the side where its own face's normal points.
    """
    normals = face_normals(vertices, faces)
    corner_vertex = weld(vertices)[faces].ravel()
    corners_in_order = np.argsort(corner_vertex, kind="stable")
    ends = np.cumsum(np.bincount(corner_vertex))
    smooth = np.empty((len(faces), 3, 3), dtype=np.float32)
    _smooth_corners(
        normals,
        corner_angles(vertices, faces).ravel(),
        corners_in_order,
        ends,
        math.cos(crease_rad),
        smooth.reshape(-1, 3),
    )
    return smooth


def weld(vertices: Float32[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """Number the distinct positions; vertices at the same place get the same number."""
    order = np.lexsort(vertices.T)
    in_order = vertices[order]
    is_new = np.ones(len(vertices), dtype=bool)
    is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    number = np.empty(len(vertices), dtype=np.int64)
    number[order] = np.cumsum(is_new) - 1
    return number


def corner_angles(
    vertices: Float32[np.ndarray, "n 3"], faces: Int32[np.ndarray, "m 3"]
) -> Float64[np.ndarray, "m 3"]:
    """Compute the inner angle of each triangle at each of its corners, in radians."""
    corners = vertices.astype(np.float64)[faces]
    to_next = np.roll(corners, -1, axis=1) - corners
    to_previous = np.roll(corners, 1, axis=1) - corners
    across = np.linalg.norm(np.cross(to_next, to_previous), axis=2)
    return np.arctan2(across, (to_next * to_previous).sum(axis=2))


@njit(cache=True, nogil=True)
@no_type_check
def _smooth_corners(
    normals: np.ndarray,
    angles: np.ndarray,
    corners_in_order: np.ndarray,
    ends: np.ndarray,
    cos_crease: float,
    smooth: np.ndarray,
) -> None:
    """Fill `smooth` (one row per corner), vertex by vertex."""
    begin = 0
    for end in ends:
        around = corners_in_order[begin:end]
        begin = end
        for corner in around:
            x, y, z = normals[corner // 3]
            sum_x, sum_y, sum_z = x * 1e-9, y * 1e-9, z * 1e-9  # never all zero
            if len(around) <= _MAX_CORNERS_AT_VERTEX:
                for other in around:
                    other_x, other_y, other_z = normals[other // 3]
                    cosine = x * other_x + y * other_y + z * other_z
                    if abs(cosine) >= cos_crease:
                        weight = angles[other] if cosine > 0 else -angles[other]
                        sum_x += weight * other_x
                        sum_y += weight * other_y
                        sum_z += weight * other_z
            length = math.sqrt(sum_x * sum_x + sum_y * sum_y + sum_z * sum_z)
            smooth[corner, 0] = sum_x / length
            smooth[corner, 1] = sum_y / length
            smooth[corner, 2] = sum_z / length
