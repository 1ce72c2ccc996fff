"""How does a mesh become pictures, depths and face ids on a CPU? A z-buffer of 64-bit keys.

For each view: vertices are projected once and snapped to 1/4096 px; faces whose box holds no pixel
centre are dropped; the others write, where they cover a pixel centre and it exceeds what is there,

    bits of 1/w as float32 << 32  |  front-facing << 31  |  face index

so that the nearest face wins, at equal depth the one that faces the camera, and then the one with
the higher index: the result does not depend on the order of anything. Edge functions are exact
integers with a top-left rule: of two faces that share an edge, exactly one covers a pixel centre
on it. Colours are computed afterwards, once per pixel of the raster, and averaged.

An orthographic camera has w = 1 everywhere. Its inverse depth is here a constant minus the depth,
which is positive, linear on the screen and larger where it is nearer, as 1/w is.

One thread; the interpreter lock is released, but one process per core is the faster way.
"""

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from numba import njit

from picpoint.geometry.cameras import Cameras
from picpoint.render.look import Look, build_look
from picpoint.render.meshes import Mesh
from picpoint.render.shading import new_row_samples, shade

# These kernels allocate nothing, so arrays need no reference counts; division by 0 gives inf.
_KERNEL: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False, "error_model": "numpy"}
_INLINE: dict[str, Any] = {**_KERNEL, "inline": "always"}

SUBPIXEL_BITS = 12
SUBPIXEL = 1 << SUBPIXEL_BITS
HALF_SUBPIXEL = SUBPIXEL // 2
# The lower half of a key.
FRONT_BIT = 1 << 31
FACE_BITS = FRONT_BIT - 1
# Within these, in half pictures and in px, edge functions stay below 2**53: exact as floats too.
GUARD_NDC = 4.0
_MAX_SIDE_PX = 2048
# Farther than this behind the origin, in world units, nothing is drawn by an orthographic camera.
_GUARD_DEPTH = 4.0
# Faces up to this many pixels wide are drawn by testing their whole box (measured).
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class RasterizerConfig:
    """How pictures are sampled.

    Attributes:
        supersampling: the raster is this much finer than the picture, along each side.
        background: sRGB, 0..1.
    """

    supersampling: int = 2
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.supersampling < 1:
            raise ValueError(f"supersampling {self.supersampling}: must be at least 1; usual is 2")
        if not all(0 <= channel <= 1 for channel in self.background):  # NaN is not either
            raise ValueError(
                f"background {self.background}: each of red, green and blue must be 0..1; "
                "white is 1, 1, 1"
            )


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the views of a mesh show.

    Attributes:
        colour: sRGB pictures, row 0 on top.
        coverage: share of each pixel that the mesh covers, 0..1.
        depth: along the viewing axis, world units, on the fine raster (`supersampling` pixels to a
            pixel of the picture along each side); inf where nothing is.
        face_id: visible face on the fine raster; -1 where nothing is.
    """

    colour: UInt8[np.ndarray, "V S S 3"]
    coverage: Float32[np.ndarray, "V S S"]
    depth: Float32[np.ndarray, "V fine fine"]
    face_id: Int32[np.ndarray, "V fine fine"]


def render(mesh: Mesh, cameras: Cameras, config: RasterizerConfig) -> Rendering:
    """Draw a mesh from every camera; see `draw`."""
    return draw(mesh.vertices, build_look(mesh, px_per_unit(cameras)), cameras, config)


def draw(
    vertices: Float32[np.ndarray, "n 3"], look: Look, cameras: Cameras, config: RasterizerConfig
) -> Rendering:
    """Draw faces from every camera.

    Args:
        vertices: world frame; in the unit sphere for the rigs of `build_cameras`.
        look: faces and their appearance.
        cameras: where from, and how large.
        config: sampling and background.

    Raises:
        ValueError: a face reaches behind a camera or far outside its picture (there is no
            clipping), or the raster is larger than 2,048 px.
    """
    check_raster(cameras.size_px, config.supersampling)
    size_px, side_px = cameras.size_px, cameras.size_px * config.supersampling
    views = len(cameras.view_matrices)
    rendering = Rendering(
        colour=np.empty((views, size_px, size_px, 3), np.uint8),
        coverage=np.empty((views, size_px, size_px), np.float32),
        depth=np.empty((views, side_px, side_px), np.float32),
        face_id=np.empty((views, side_px, side_px), np.int32),
    )
    background = np.array(config.background, np.float64)
    snapped = np.empty((len(vertices), 2), np.int32)
    inverse_depth = np.empty(len(vertices), np.float32)
    # The last columns are no pixels: rows are written in whole chunks.
    keys = np.empty((side_px, side_px + _CHUNK), np.int64)
    samples = new_row_samples(size_px, config.supersampling)
    world_to_clip = world_to_clip_of(cameras)
    rays = rays_through(world_to_clip, side_px)
    for view in range(views):
        to_inverse_depth, zero_depth = _inverse_depth(cameras, view)
        if _snap_vertices(
            vertices,
            world_to_clip[view],
            to_inverse_depth,
            zero_depth,
            side_px,
            snapped,
            inverse_depth,
        ):
            _check_faces(look.faces, inverse_depth, view)
        _fill_keys(look.faces, snapped, inverse_depth, keys)
        _read_keys(keys, zero_depth, rendering.depth[view], rendering.face_id[view])
        shade(
            look,
            snapped,
            np.ones_like(inverse_depth) if cameras.is_orthographic[view] else inverse_depth,
            rendering.face_id[view],
            SUBPIXEL,
            rays[view],
            background,
            samples,
            rendering.colour[view].reshape(size_px, 3 * size_px),
            rendering.coverage[view],
        )
    return rendering


def check_raster(size_px: int, supersampling: int) -> None:
    """Refuse a raster finer than the kernels' exact integers hold.

    Raises:
        ValueError: it is larger than 2,048 px.
    """
    if not 0 < size_px * supersampling <= _MAX_SIDE_PX:
        raise ValueError(
            f"raster of {size_px} px x supersampling {supersampling}: must be 1..{_MAX_SIDE_PX}; "
            "lower size_px or supersampling"
        )


def px_per_unit(cameras: Cameras) -> float:
    """Give the pixels of the picture per world unit at the origin, averaged over the cameras."""
    focal = cameras.projection_matrices[:, 1, 1]
    distance = np.linalg.norm(cameras.positions, axis=1)
    w = np.where(cameras.is_orthographic, np.float32(1), distance)
    return float(np.mean(focal / w) * cameras.size_px / 2)


def world_to_clip_of(cameras: Cameras) -> Float64[np.ndarray, "V 4 4"]:
    """Multiply each camera's matrices in double precision."""
    return cameras.projection_matrices.astype(np.float64) @ cameras.view_matrices.astype(np.float64)


def _inverse_depth(cameras: Cameras, view: int) -> tuple[Float64[np.ndarray, "4"], float]:
    """Give the row whose product with a world point, over w, is inverse depth; and that of depth 0.

    The inverse depth of an orthographic camera is that of depth 0 minus the depth.
    """
    if not cameras.is_orthographic[view]:
        return np.array([0.0, 0.0, 0.0, 1.0]), math.inf
    *axis, shift = cameras.view_matrices[view, 2].astype(np.float64)
    return np.array([*axis, _GUARD_DEPTH]), _GUARD_DEPTH - shift


def rays_through(
    world_to_clip: Float64[np.ndarray, "V 4 4"], side_px: int
) -> Float64[np.ndarray, "V 3 3"]:
    """Map (x, y, 1), x and y in 1/4096 px of the fine raster, to world rays from each camera."""
    return np.stack([_rays_of_view(matrix, side_px) for matrix in world_to_clip])


def _rays_of_view(
    world_to_clip: Float64[np.ndarray, "4 4"], side_px: int
) -> Float64[np.ndarray, "3 3"]:
    if not world_to_clip[3, :3].any():
        # Orthographic: everywhere the direction whose clip (x, y, z) is (0, 0, 1).
        return np.linalg.inv(world_to_clip[:3, :3]) @ np.diag([0.0, 0.0, 1.0])
    # A ray is the direction whose clip (x, y, w) is (ndc x, ndc y, 1).
    ndc_to_ray = np.linalg.inv(world_to_clip[[0, 1, 3], :3])
    step = 2 / (side_px * SUBPIXEL)
    return ndc_to_ray @ np.array([[step, 0, -1], [0, -step, 1], [0, 0, 1]])


def _check_faces(
    faces: Int32[np.ndarray, "m 3"], inverse_depth: Float32[np.ndarray, " n"], view: int
) -> None:
    """Raise if a face uses a vertex that was not projected; unused ones may lie anywhere."""
    outside = (inverse_depth[faces] == 0).any(axis=1)
    if outside.any():
        raise outside_error(view, int(outside.sum()))


def outside_error(view: int, num_faces: int) -> ValueError:
    """Build the error of faces that no renderer can draw, for want of clipping."""
    return ValueError(
        f"view {view}: {num_faces} faces reach behind the camera or far outside the picture; a "
        "mesh must lie in front of every camera: normalise it into the unit sphere"
    )


@njit(**_KERNEL)
@no_type_check
def _snap_vertices(
    vertices: Float32[np.ndarray, "n 3"],
    world_to_clip: Float64[np.ndarray, "4 4"],
    to_inverse_depth: Float64[np.ndarray, "4"],
    zero_depth: float,
    side_px: int,
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
) -> int:
    """Project vertices to 1/4096 px; count those that cannot be (their inverse depth is 0)."""
    m, q = world_to_clip, to_inverse_depth
    half_side = 0.5 * side_px * SUBPIXEL
    unprojected = 0
    for vertex in range(len(vertices)):
        x, y, z = vertices[vertex, 0], vertices[vertex, 1], vertices[vertex, 2]
        w = m[3, 0] * x + m[3, 1] * y + m[3, 2] * z + m[3, 3]
        ndc_x = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
        ndc_y = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
        inverse = (q[0] * x + q[1] * y + q[2] * z + q[3]) / w
        in_front = w > 0 and 0 < inverse < zero_depth
        if in_front and abs(ndc_x) < GUARD_NDC and abs(ndc_y) < GUARD_NDC:
            snapped[vertex, 0] = np.int32(np.floor((1 + ndc_x) * half_side + 0.5))
            snapped[vertex, 1] = np.int32(np.floor((1 - ndc_y) * half_side + 0.5))
            inverse_depth[vertex] = inverse
        else:
            snapped[vertex, 0], snapped[vertex, 1], inverse_depth[vertex] = 0, 0, 0
            unprojected += 1
    return unprojected


@njit(**_KERNEL)
@no_type_check
def _fill_keys(
    faces: Int32[np.ndarray, "m 3"],
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
    keys: Int64[np.ndarray, "fine padded"],
) -> None:
    """Draw every face into the buffer of keys."""
    side = keys.shape[0]
    keys[:] = 0
    for face in range(len(faces)):
        # Unsigned, so that numba does not look for negative indices.
        a, b, c = np.uint32(faces[face, 0]), np.uint32(faces[face, 1]), np.uint32(faces[face, 2])
        ax, ay = np.int64(snapped[a, 0]), np.int64(snapped[a, 1])
        bx, by = np.int64(snapped[b, 0]), np.int64(snapped[b, 1])
        cx, cy = np.int64(snapped[c, 0]), np.int64(snapped[c, 1])
        left = max((min(ax, bx, cx) + HALF_SUBPIXEL - 1) >> SUBPIXEL_BITS, 0)
        right = min((max(ax, bx, cx) - HALF_SUBPIXEL) >> SUBPIXEL_BITS, side - 1)
        top = max((min(ay, by, cy) + HALF_SUBPIXEL - 1) >> SUBPIXEL_BITS, 0)
        bottom = min((max(ay, by, cy) - HALF_SUBPIXEL) >> SUBPIXEL_BITS, side - 1)
        if (left > right) | (top > bottom):
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        # Rows go down, so a face that is counter-clockwise in the world has a negative area here.
        low = np.int64(face) | (FRONT_BIT if area < 0 else 0)
        if area < 0:
            b, c, bx, by, cx, cy, area = c, b, cx, cy, bx, by, -area
        # Edge functions at the first pixel centre of the box: twice the areas opposite to a, b, c.
        x, y = (left << SUBPIXEL_BITS) + HALF_SUBPIXEL, (top << SUBPIXEL_BITS) + HALF_SUBPIXEL
        edge_a = (cx - bx) * (y - by) - (cy - by) * (x - bx)
        edge_b = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
        edge_c = area - edge_a - edge_b
        # From here on a centre is inside where no edge function is negative: those on an edge that
        # is neither top nor left are pushed out.
        edges = (
            edge_a - (not ((cy < by) | ((cy == by) & (cx > bx)))),
            edge_b - (not ((ay < cy) | ((ay == cy) & (ax > cx)))),
            edge_c - (not ((by < ay) | ((by == ay) & (bx > ax)))),
        )
        per_column = (by - cy) * SUBPIXEL, (cy - ay) * SUBPIXEL, (ay - by) * SUBPIXEL
        per_row = (cx - bx) * SUBPIXEL, (ax - cx) * SUBPIXEL, (bx - ax) * SUBPIXEL
        # 1/w is linear on the screen.
        za = np.float64(inverse_depth[a])
        share = 1.0 / area
        per_b = (np.float64(inverse_depth[b]) - za) * share
        per_c = (np.float64(inverse_depth[c]) - za) * share
        z = za + edge_b * per_b + edge_c * per_c
        z_per_column = per_column[1] * per_b + per_column[2] * per_c
        z_per_row = per_row[1] * per_b + per_row[2] * per_c
        # Both ways add row and column to it in the same order, and so does the CUDA renderer: faces
        # that lie in one another tie to the last bit.
        plane = z, z_per_column, z_per_row
        rows = keys[np.uint64(top) : np.uint64(bottom + 1), np.uint64(left) :]
        width = right - left + 1
        # The length of a chunk is a constant in each case, so that the compiler unrolls its loop.
        if width == 1:
            _draw_box(rows, 1, edges, per_column, per_row, plane, low)
        elif width <= 2:
            _draw_box(rows, 2, edges, per_column, per_row, plane, low)
        elif width <= 4:
            _draw_box(rows, 4, edges, per_column, per_row, plane, low)
        elif width <= _CHUNK:
            _draw_box(rows, _CHUNK, edges, per_column, per_row, plane, low)
        else:
            _draw_spans(rows, width, edges, per_column, per_row, plane, low)


@njit(**_INLINE)
@no_type_check
def _draw_box(
    rows: Int64[np.ndarray, "h w"],
    chunk: int,
    edges: tuple[int, int, int],
    per_column: tuple[int, int, int],
    per_row: tuple[int, int, int],
    plane: tuple[float, float, float],
    low: int,
) -> None:
    """Draw a face by testing a whole chunk of each row, without branches: for narrow faces.

    What the chunk reaches beyond the box is outside the face, or no pixel of the raster.
    """
    edge_a, edge_b, edge_c = edges
    step_a, step_b, step_c = per_column
    z, z_per_column, z_per_row = plane
    for row in range(rows.shape[0]):
        line = rows[np.uint64(row), : np.uint64(chunk)]
        z_of_row = z + row * z_per_row
        for lane in range(chunk):
            edge = (edge_a + lane * step_a) | (edge_b + lane * step_b) | (edge_c + lane * step_c)
            outside = edge >> 63  # all ones, or 0
            key = _key(z_of_row + lane * z_per_column, low)
            line[lane] = max(line[lane], key & ~outside)
        edge_a += per_row[0]
        edge_b += per_row[1]
        edge_c += per_row[2]


@njit(**_INLINE)
@no_type_check
def _draw_spans(
    rows: Int64[np.ndarray, "h w"],
    width: int,
    edges: tuple[int, int, int],
    per_column: tuple[int, int, int],
    per_row: tuple[int, int, int],
    plane: tuple[float, float, float],
    low: int,
) -> None:
    """Draw a face by solving each row for its first and last pixel: for wide faces."""
    z, z_per_column, z_per_row = plane
    for row in range(rows.shape[0]):
        first, last = 0.0, width - 1.0
        for side in range(3):
            edge, step = edges[side] + row * per_row[side], per_column[side]
            # Exact: a quotient that is no integer is farther from one than the rounding error.
            if step > 0:
                first = max(first, -edge / step)
            elif step < 0:
                last = min(last, edge / -step)
            elif edge < 0:
                last = -1.0
        start, stop = np.int64(math.ceil(first)), np.int64(math.floor(last)) + 1
        if start < stop:
            line = rows[np.uint64(row), np.uint64(start) : np.uint64(stop)]
            z_of_row = z + row * z_per_row
            for column in range(len(line)):
                key = _key(z_of_row + (start + column) * z_per_column, low)
                line[column] = max(line[column], key)


@njit(**_INLINE)
@no_type_check
def _key(inverse_depth: float, low: int) -> int:
    """Pack 1/w, whose bits order as it does because it is positive, above the facing and face."""
    return (np.int64(np.float32(inverse_depth).view(np.int32)) << 32) | low


@njit(**_KERNEL)
@no_type_check
def _read_keys(
    keys: Int64[np.ndarray, "fine padded"],
    zero_depth: float,
    depth: Float32[np.ndarray, "fine fine"],
    face_id: Int32[np.ndarray, "fine fine"],
) -> None:
    """Take keys apart into depth (inf where empty) and face index (-1 where empty)."""
    for row in range(depth.shape[0]):
        line = keys[np.uint64(row)]
        for column in range(depth.shape[1]):
            key = line[column]
            # An empty key is 0, and 1/0 is inf here.
            depth[row, column] = np.float32(1) / np.int32(key >> 32).view(np.float32)
            face_id[row, column] = np.int32(key & FACE_BITS) - np.int32(key == 0)
    if zero_depth != np.inf:
        for row in range(depth.shape[0]):
            for column in range(depth.shape[1]):
                if face_id[row, column] >= 0:
                    inverse = np.int32(keys[row, column] >> 32).view(np.float32)
                    depth[row, column] = zero_depth - inverse
