"""Which points of a surface does a camera see? Asked of a rendered buffer of face ids.

A point is seen if it is not behind the plane of the face that is visible where it projects to. The
plane, unlike the depth of the nearest pixel centre, is exact at the point itself, so that a slanted
surface does not hide its own points; a finer raster than the picture keeps the edges narrow.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from numba import njit

from picpoint.geometry.cameras import Cameras

# A point may lie this share of its depth behind the visible plane: room for points that were
# rounded to float16 (up to 2.4e-4 of the unit sphere off) and for curved surfaces.
RELATIVE_EPS = 2e-3


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
