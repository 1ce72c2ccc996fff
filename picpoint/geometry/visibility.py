"""Which points of a surface does a camera see? Asked of a rendered buffer of face ids, or of faces.

By the plane rule (`visible_points`) a point is seen if it is not behind the plane of the face that
is visible where it projects to. The plane, unlike the depth of the nearest pixel centre, is exact
at the point itself, so that a slanted surface does not hide its own points; a finer raster than the
picture keeps the edges narrow.

By the exact rule (`exactly_visible_points`) a point is seen if no face lies between it and the
camera: every face asks the points in the pixels of its box. It costs several times as much.
"""

from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from numba import njit

from picpoint.geometry.cameras import Cameras

# A point may lie this share of its depth behind the visible plane: room for points that were
# rounded to float16 (up to 2.4e-4 of the unit sphere off) and for curved surfaces.
RELATIVE_EPS = 2e-3
# The exact rule needs room for float32 alone: a point's own face does not hide it. Points that were
# rounded to float16 lie under their neighbours' faces, and lose 1 % of their views.
EXACT_EPS = 1e-4

VisibilityRule = Literal["plane", "exact"]


def visible_points(
    points: Float32[np.ndarray, "P 3"],
    view_matrices: Float32[np.ndarray, "V 4 4"],
    projection_matrices: Float32[np.ndarray, "V 4 4"],
    size_px: int,
    vertices: Float32[np.ndarray, "n 3"],
    faces: Int32[np.ndarray, "m 3"],
    face_id: Int32[np.ndarray, "V fine fine"],
) -> Bool[np.ndarray, "V P"]:
    """Tell which points each view sees.

    Args:
        points: on or near the surface, world frame.
        view_matrices: world to camera.
        projection_matrices: camera to clip.
        size_px: side of the picture; the raster of face ids is a whole number of times finer.
        vertices: of the rendered mesh, world frame.
        faces: vertex indices.
        face_id: visible face on the fine raster; -1 where nothing is.

    Returns:
        True where a point is seen; a point behind the camera or outside the picture is not.

    Raises:
        ValueError: the raster is not a whole number of times finer than the picture.
    """
    if face_id.shape[1] % size_px:
        raise ValueError(
            f"face ids of {face_id.shape[1]} px: must be a multiple of the picture's {size_px} px; "
            "pass the buffer that the picture was rendered with"
        )
    cameras = Cameras(view_matrices, projection_matrices, size_px)
    seen = np.zeros((len(view_matrices), len(points)), dtype=np.bool_)
    for view, row in enumerate(seen):
        projection = projection_matrices[view].astype(np.float64)
        world_to_clip = projection @ view_matrices[view].astype(np.float64)
        camera = cameras.positions[view].astype(np.float64)
        forward = -view_matrices[view, 2, :3].astype(np.float64)
        parallel = bool(cameras.is_orthographic[view])
        rays = (camera, forward, parallel)
        _see_points(points, world_to_clip, rays, vertices, faces, face_id[view], row)
    return seen


def exactly_visible_points(
    points: Float32[np.ndarray, "P 3"],
    own_face: Int64[np.ndarray, " P"],
    view_matrices: Float32[np.ndarray, "V 4 4"],
    projection_matrices: Float32[np.ndarray, "V 4 4"],
    size_px: int,
    vertices: Float32[np.ndarray, "n 3"],
    faces: Int32[np.ndarray, "m 3"],
) -> Bool[np.ndarray, "V P"]:
    """Tell which points each view sees, by asking every face whether it hides them.

    Args:
        points: on the surface, world frame, as they were sampled and not rounded.
        own_face: the face that each point lies on, which does not hide it.
        view_matrices: world to camera.
        projection_matrices: camera to clip.
        size_px: side of the grid that sorts the points; changes the time only.
        vertices: of the mesh, world frame, in front of every camera.
        faces: vertex indices.

    Returns:
        True where a point is seen; a point behind the camera or outside the picture is not.
    """
    seen = np.zeros((len(view_matrices), len(points)), dtype=np.bool_)
    for view, row in enumerate(seen):
        projection = projection_matrices[view].astype(np.float64)
        world_to_clip = projection @ view_matrices[view].astype(np.float64)
        at_vertices = _to_grid(vertices, world_to_clip, size_px)
        at_points = _to_grid(points, world_to_clip, size_px)
        u, v, inverse_depth = at_points.T
        inside = (inverse_depth > 0) & (u >= 0) & (u < size_px) & (v >= 0) & (v < size_px)
        cell = np.where(inside, v.astype(np.int64) * size_px + u.astype(np.int64), size_px**2)
        by_cell = np.argsort(cell, kind="stable")
        first = np.searchsorted(cell[by_cell], np.arange(size_px**2 + 1))
        hidden = np.zeros(len(points), dtype=np.bool_)
        _hide_points(
            faces, at_vertices, at_points[by_cell], own_face[by_cell], first, size_px, hidden
        )
        row[by_cell] = inside[by_cell] & ~hidden
    return seen


def pack_visibility(seen: Bool[np.ndarray, "V P"]) -> UInt8[np.ndarray, "V packed"]:
    """Pack to one bit a point; the first point is the highest bit of its row's first byte."""
    return np.packbits(seen, axis=1)


@njit(nogil=True, cache=True)
@no_type_check
def _see_points(
    points: Float32[np.ndarray, "P 3"],
    world_to_clip: Float64[np.ndarray, "4 4"],
    rays: tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"], bool],
    vertices: Float32[np.ndarray, "n 3"],
    faces: Int32[np.ndarray, "m 3"],
    face_id: Int32[np.ndarray, "fine fine"],
    seen: Bool[np.ndarray, " P"],
) -> None:
    """Mark in `seen` the points that one view sees.

    Its `rays` start at the camera, or, where they are parallel, beside it and go forward.
    """
    camera, forward, parallel = rays
    side = face_id.shape[0]
    m = world_to_clip
    for point in range(len(points)):
        x, y, z = points[point, 0], points[point, 1], points[point, 2]
        w = m[3, 0] * x + m[3, 1] * y + m[3, 2] * z + m[3, 3]
        clip_x = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
        clip_y = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
        if not (w > 0 and abs(clip_x) < w and abs(clip_y) < w):
            continue
        column = min(int((1 + clip_x / w) * 0.5 * side), side - 1)
        row = min(int((1 - clip_y / w) * 0.5 * side), side - 1)
        face = face_id[row, column]
        if face < 0:
            continue
        ox, oy, oz = camera[0], camera[1], camera[2]
        if parallel:
            depth = forward[0] * (x - ox) + forward[1] * (y - oy) + forward[2] * (z - oz)
            if depth <= 0:
                continue
            ox, oy, oz = x - depth * forward[0], y - depth * forward[1], z - depth * forward[2]
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ax = np.float64(vertices[a, 0])
        ay = np.float64(vertices[a, 1])
        az = np.float64(vertices[a, 2])
        ex, ey, ez = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        fx, fy, fz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        nx, ny, nz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
        to_plane = nx * (ax - ox) + ny * (ay - oy) + nz * (az - oz)
        to_point = nx * (x - ox) + ny * (y - oy) + nz * (z - oz)
        # Along the ray to the point, the plane lies at to_plane / to_point of the point's depth.
        # Of opposite signs, the plane is met only behind the camera: it hides nothing.
        if to_point * to_plane <= 0 or abs(to_point) * (1 - RELATIVE_EPS) <= abs(to_plane):
            seen[point] = True


def _to_grid(
    places: Float32[np.ndarray, "N 3"], world_to_clip: Float64[np.ndarray, "4 4"], size_px: int
) -> Float64[np.ndarray, "N 3"]:
    """Project world points to u and v in px, and 1/w; zeros for what is behind the camera."""
    clip = places @ world_to_clip[:, :3].T + world_to_clip[:, 3]
    w = clip[:, 3]
    inverse_depth = np.divide(1, w, out=np.zeros_like(w), where=w > 0)
    u = (1 + clip[:, 0] * inverse_depth) * (size_px / 2)
    v = (1 - clip[:, 1] * inverse_depth) * (size_px / 2)
    grid = np.stack([u, v, inverse_depth], axis=1)
    grid[inverse_depth == 0] = 0
    return grid


@njit(nogil=True, cache=True)
@no_type_check
def _hide_points(
    faces: Int32[np.ndarray, "m 3"],
    at_vertices: Float64[np.ndarray, "n 3"],
    at_points: Float64[np.ndarray, "P 3"],
    own_face: Int64[np.ndarray, " P"],
    first: Int64[np.ndarray, " cells"],
    size_px: int,
    hidden: Bool[np.ndarray, " P"],
) -> None:
    """Mark in `hidden` the points, sorted by cell, that a face lies before."""
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        au, av, az = at_vertices[a, 0], at_vertices[a, 1], at_vertices[a, 2]
        bu, bv, bz = at_vertices[b, 0], at_vertices[b, 1], at_vertices[b, 2]
        cu, cv, cz = at_vertices[c, 0], at_vertices[c, 1], at_vertices[c, 2]
        area = (bu - au) * (cv - av) - (bv - av) * (cu - au)
        if area == 0 or min(az, bz, cz) <= 0:
            continue
        left, right = int(max(min(au, bu, cu), 0.0)), int(min(max(au, bu, cu), size_px - 1.0))
        top, bottom = int(max(min(av, bv, cv), 0.0)), int(min(max(av, bv, cv), size_px - 1.0))
        for row in range(top, bottom + 1):
            if left > right:
                break
            # The cells of a row lie side by side, and so do their points.
            begin, end = first[row * size_px + left], first[row * size_px + right + 1]
            for point in range(begin, end):
                if hidden[point] or own_face[point] == face:
                    continue
                u, v, z = at_points[point, 0], at_points[point, 1], at_points[point, 2]
                at_a = ((bu - u) * (cv - v) - (bv - v) * (cu - u)) / area
                at_b = ((cu - u) * (av - v) - (cv - v) * (au - u)) / area
                at_c = 1 - at_a - at_b
                if min(at_a, at_b, at_c) >= 0:
                    hidden[point] = at_a * az + at_b * bz + at_c * cz > z * (1 + EXACT_EPS)
