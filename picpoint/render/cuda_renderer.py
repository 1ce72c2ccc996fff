"""How does a mesh become pictures on an NVIDIA GPU? The z-buffer of the CPU, with atomic maxima.

The keys, the snapping to 1/4096 px and the integer edge functions are those of
picpoint/render/rasterizer.py, and a maximum does not depend on the order of the threads: face ids
are the same, but where a GPU fuses a multiplication with an addition and that turns the rounding of
a vertex to 1/4096 px, or of 1/w to float32. Keys are shaded in torch (torch_shading.py).

With NUMBA_ENABLE_CUDASIM=1 the kernels run in numba's simulator, and the tensors stay on the CPU:
slow, and for tests.
"""

import math
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from numba import cuda
from numba.core import config as numba_config
from torch import Tensor

from picpoint.geometry.cameras import Cameras
from picpoint.render.look import Look
from picpoint.render.rasterizer import (
    FACE_BITS,
    FRONT_BIT,
    GUARD_NDC,
    HALF_SUBPIXEL,
    SUBPIXEL,
    SUBPIXEL_BITS,
    RasterizerConfig,
    Rendering,
    check_raster,
    outside_error,
    rays_through,
    world_to_clip_of,
)
from picpoint.render.torch_shading import BYTES_PER_SAMPLE, shade, to_device

# Memory that one chunk of views may take, about.
_CHUNK_BYTES = 2 << 30
# Threads of a block of vertices, and those that share the box of one face.
_VERTICES_PER_BLOCK = 128
_THREADS_PER_FACE = 32


def what_is_missing() -> str:
    """Say what is missing to draw with CUDA, and the remedy; "" if nothing is."""
    if _is_simulated():
        return ""
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU; install a CUDA build of it on a machine that has one"
    if not cuda.is_available():
        return "numba finds no CUDA toolkit; pip install 'numba-cuda[cu13]' (or cu12, as torch)"
    return ""


def draw(
    vertices: Float32[np.ndarray, "n 3"],
    look: Look,
    cameras: Cameras,
    config: RasterizerConfig,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Rendering:
    """Draw faces from every camera; see `picpoint.render.rasterizer.draw`.

    Args:
        vertices: world frame.
        look: faces and their appearance.
        cameras: where from, and how large.
        config: sampling and background.
        chunk_bytes: memory that the views of one call may take, about; at least one view goes.

    Raises:
        ValueError: a face reaches behind a camera or far outside its picture, or the raster is
            larger than 2,048 px.
    """
    check_raster(cameras.size_px, config.supersampling)
    side_px = cameras.size_px * config.supersampling
    device = torch.device("cpu" if _is_simulated() else "cuda")
    on_device = to_device(look, device)
    background = torch.tensor(config.background, dtype=torch.float32, device=device)
    world_to_clip = world_to_clip_of(cameras)
    # Rays are counted in 1/4096 px there, in px here.
    rays = rays_through(world_to_clip, side_px) * [SUBPIXEL, SUBPIXEL, 1]
    views_at_a_time = max(1, chunk_bytes // (side_px**2 * BYTES_PER_SAMPLE + 12 * len(vertices)))
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, len(world_to_clip), views_at_a_time):
        views = slice(first, first + views_at_a_time)
        snapped, inverse_depth = _snap_vertices(vertices, world_to_clip[views], side_px, device)
        outside = (inverse_depth == 0)[:, on_device.faces.long()].any(dim=-1).sum(dim=1)
        if outside.any():
            view = int(outside.argmax())
            raise outside_error(first + view, int(outside[view]))
        keys = _fill_keys(on_device.faces, snapped, inverse_depth, side_px)
        # An empty key is 0: 1/0 is inf, and -1 the face.
        depth = 1 / (keys >> 32).to(torch.int32).view(torch.float32)
        face_id = (keys & FACE_BITS).to(torch.int32) - (keys == 0).to(torch.int32)
        shaded = shade(
            on_device,
            snapped.to(torch.float32) / SUBPIXEL,
            inverse_depth,
            face_id,
            torch.as_tensor(rays[views], device=device),
            background,
            cameras.size_px,
        )
        parts.append((shaded.colour, shaded.coverage, depth, face_id))
    return Rendering(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def _is_simulated() -> bool:
    return bool(vars(numba_config)["ENABLE_CUDASIM"])


def _snap_vertices(
    vertices: Float32[np.ndarray, "n 3"],
    world_to_clip: Float64[np.ndarray, "V 4 4"],
    side_px: int,
    device: torch.device,
) -> tuple[Int32[Tensor, "V n 2"], Float32[Tensor, "V n"]]:
    """Project vertices to 1/4096 px; give 1/w as well, 0 where a vertex cannot be projected."""
    shape = (len(world_to_clip), len(vertices))
    snapped = torch.zeros((*shape, 2), dtype=torch.int32, device=device)
    inverse_depth = torch.zeros(shape, dtype=torch.float32, device=device)
    blocks = -(-len(vertices) // _VERTICES_PER_BLOCK), len(world_to_clip)
    _launch(_snap_kernel, blocks, _VERTICES_PER_BLOCK, device)(
        _as_array(torch.as_tensor(vertices, device=device)),
        _as_array(torch.as_tensor(world_to_clip, device=device)),
        side_px,
        _as_array(snapped),
        _as_array(inverse_depth),
    )
    return snapped, inverse_depth


def _fill_keys(
    faces: Int32[Tensor, "m 3"],
    snapped: Int32[Tensor, "V n 2"],
    inverse_depth: Float32[Tensor, "V n"],
    side_px: int,
) -> Int64[Tensor, "V fine fine"]:
    """Draw every face into buffers of keys."""
    keys = torch.zeros((len(snapped), side_px, side_px), dtype=torch.int64, device=faces.device)
    _launch(_fill_kernel, (len(faces), len(snapped)), _THREADS_PER_FACE, faces.device)(
        _as_array(faces), _as_array(snapped), _as_array(inverse_depth), _as_array(keys)
    )
    return keys


def _launch(kernel: Any, blocks: tuple[int, int], threads: int, device: torch.device) -> Any:  # noqa: ANN401 - numba's own types
    """Configure a kernel for torch's stream, so that it runs between torch's own."""
    if device.type == "cpu":
        return kernel[blocks, threads]
    stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
    return kernel[blocks, threads, stream]


def _as_array(tensor: Tensor) -> Any:  # noqa: ANN401 - numba's own types
    """Show a tensor to numba, without a copy."""
    return tensor.numpy() if tensor.device.type == "cpu" else cuda.as_cuda_array(tensor)


@cuda.jit
@no_type_check
def _snap_kernel(vertices, world_to_clip, side_px, snapped, inverse_depth) -> None:  # noqa: ANN001
    """Project one vertex in one view."""
    vertex = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    view = cuda.blockIdx.y
    if vertex >= vertices.shape[0]:
        return
    m = world_to_clip[view]
    half_side = 0.5 * side_px * SUBPIXEL
    x, y, z = vertices[vertex, 0], vertices[vertex, 1], vertices[vertex, 2]
    w = m[3, 0] * x + m[3, 1] * y + m[3, 2] * z + m[3, 3]
    if not w > 0:
        return
    ndc_x = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
    ndc_y = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
    if abs(ndc_x) < GUARD_NDC and abs(ndc_y) < GUARD_NDC:
        snapped[view, vertex, 0] = math.floor((1 + ndc_x) * half_side + 0.5)
        snapped[view, vertex, 1] = math.floor((1 - ndc_y) * half_side + 0.5)
        inverse_depth[view, vertex] = 1 / w


@cuda.jit
@no_type_check
def _fill_kernel(faces, snapped, inverse_depth, keys) -> None:  # noqa: ANN001
    """Draw one face in one view; the threads of the block share the pixels of its box."""
    face, view = cuda.blockIdx.x, cuda.blockIdx.y
    side = keys.shape[1]
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    ax, ay = np.int64(snapped[view, a, 0]), np.int64(snapped[view, a, 1])
    bx, by = np.int64(snapped[view, b, 0]), np.int64(snapped[view, b, 1])
    cx, cy = np.int64(snapped[view, c, 0]), np.int64(snapped[view, c, 1])
    left = max((min(ax, bx, cx) + HALF_SUBPIXEL - 1) >> SUBPIXEL_BITS, 0)
    right = min((max(ax, bx, cx) - HALF_SUBPIXEL) >> SUBPIXEL_BITS, side - 1)
    top = max((min(ay, by, cy) + HALF_SUBPIXEL - 1) >> SUBPIXEL_BITS, 0)
    bottom = min((max(ay, by, cy) - HALF_SUBPIXEL) >> SUBPIXEL_BITS, side - 1)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if left > right or top > bottom or area == 0:
        return
    # Rows go down, so a face that is counter-clockwise in the world has a negative area here.
    low = np.int64(face)
    if area < 0:
        low |= FRONT_BIT
        b, c, bx, by, cx, cy, area = c, b, cx, cy, bx, by, -area
    x, y = (left << SUBPIXEL_BITS) + HALF_SUBPIXEL, (top << SUBPIXEL_BITS) + HALF_SUBPIXEL
    edge_a = (cx - bx) * (y - by) - (cy - by) * (x - bx)
    edge_b = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
    edge_c = area - edge_a - edge_b
    za = np.float64(inverse_depth[view, a])
    share = 1.0 / area
    per_b = (np.float64(inverse_depth[view, b]) - za) * share
    per_c = (np.float64(inverse_depth[view, c]) - za) * share
    z = za + edge_b * per_b + edge_c * per_c
    step_a, step_b, step_c = (by - cy) * SUBPIXEL, (cy - ay) * SUBPIXEL, (ay - by) * SUBPIXEL
    down_a, down_b, down_c = (cx - bx) * SUBPIXEL, (ax - cx) * SUBPIXEL, (bx - ax) * SUBPIXEL
    z_per_column = step_b * per_b + step_c * per_c
    z_per_row = down_b * per_b + down_c * per_c
    # An edge that is neither top nor left does not own the centres on it.
    if not (cy < by or (cy == by and cx > bx)):
        edge_a -= 1
    if not (ay < cy or (ay == cy and ax > cx)):
        edge_b -= 1
    if not (by < ay or (by == ay and bx > ax)):
        edge_c -= 1
    width = right - left + 1
    for pixel in range(cuda.threadIdx.x, width * (bottom - top + 1), cuda.blockDim.x):
        row, column = pixel // width, pixel % width
        at_a = edge_a + row * down_a + column * step_a
        at_b = edge_b + row * down_b + column * step_b
        at_c = edge_c + row * down_c + column * step_c
        if at_a >= 0 and at_b >= 0 and at_c >= 0:
            # The bits of a positive float32, by arithmetic: 2**exponent * fraction, from 1/2 to 1.
            fraction, exponent = math.frexp(np.float32(z + row * z_per_row + column * z_per_column))
            bits = ((exponent + 126) << 23) + np.int64((2 * fraction - 1) * (1 << 23))
            key = (np.int64(bits) << 32) | low
            if key > keys[view, top + row, left + column]:
                cuda.atomic.max(keys, (view, top + row, left + column), key)
