"""How does NVIDIA Kaolin draw a mesh? The only file that imports it.

Its rasterizer interpolates linearly on the screen and lets the larger z win. Given 1/w, which is
linear on the screen, it is exact: 1/w decides, and depth is one over what it interpolates. Pictures
are then shaded in torch on the GPU from the face ids (picpoint/render/torch_shading.py).

Its kernel tests every face at every pixel, and the views of a call one after another: views go in
chunks that fit the memory, and meshes onto several streams.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32
from torch import Tensor

from picpoint.geometry.cameras import Cameras
from picpoint.render.look import Look
from picpoint.render.rasterizer import (
    GUARD_NDC,
    SUBPIXEL,
    RasterizerConfig,
    Rendering,
    check_raster,
    outside_error,
    rays_through,
    world_to_clip_of,
)
from picpoint.render.torch_shading import BYTES_PER_SAMPLE, TorchLook, shade, to_device

Rasterizer = Literal["kaolin", "nvdiffrast"]

# Memory that one chunk of views may take, about.
_CHUNK_BYTES = 2 << 30
# What Kaolin holds for a face of a view: z, places, features, boxes, and copies of them.
_BYTES_PER_FACE = 200
_NUM_STREAMS = 4
# Of coincident faces the one that faces the camera is to win: its 1/w gets this much larger, a few
# times the rounding error of float32.
_FRONT_BONUS = 5e-7


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn: vertices in the world frame, and the look of their faces."""

    vertices: Float32[np.ndarray, "n 3"]
    look: Look


@dataclass(frozen=True, slots=True)
class _Projected:
    """The vertices of a scene in some views.

    Attributes:
        ndc: x right and y up, -1..1 in the picture.
        inverse_depth: 1/w.
    """

    ndc: Float32[Tensor, "V n 2"]
    inverse_depth: Float32[Tensor, "V n"]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A `Rendering` that the device may still be working on, and what is wrong with it."""

    colour: Tensor
    coverage: Tensor
    depth: Tensor
    face_id: Tensor
    faces_outside: Int32[Tensor, " V"]


def what_is_missing(rasterizer: Rasterizer) -> str:
    """Say what is missing to draw with Kaolin, and the remedy; "" if nothing is."""
    try:
        _import_kaolin()
    except ImportError:
        return (
            "Kaolin is not installed (PyPI's package of that name is an empty placeholder); "
            "install the wheel for your torch and CUDA as https://kaolin.readthedocs.io says"
        )
    if not torch.cuda.is_available():
        return "Kaolin draws on an NVIDIA GPU only, and torch sees none; install a CUDA build of it"
    if rasterizer == "nvdiffrast" and importlib.util.find_spec("nvdiffrast") is None:
        return (
            "nvdiffrast is not installed; its licence allows non-commercial use only: if that "
            "suits you, install it from https://nvlabs.github.io/nvdiffrast"
        )
    return ""


def draw_scenes(
    scenes: Sequence[Scene],
    cameras: Cameras,
    config: RasterizerConfig,
    rasterizer: Rasterizer = "kaolin",
    device: str = "cuda",
    chunk_bytes: int = _CHUNK_BYTES,
) -> list[Rendering]:
    """Draw several meshes from the same cameras, each on a CUDA stream of its own.

    Args:
        scenes: what to draw.
        cameras: where from, and how large.
        config: sampling and background.
        rasterizer: Kaolin's own, or its face of nvdiffrast (non-commercial use only).
        device: torch's name of the GPU.
        chunk_bytes: memory that the views of one call may take, about; at least one view goes.

    Raises:
        ValueError: a face reaches behind a camera or far outside its picture, or the raster is
            larger than 2,048 px.
    """
    check_raster(cameras.size_px, config.supersampling)
    on = torch.device(device)
    streams = [torch.cuda.Stream(on) for _ in range(_NUM_STREAMS)] if on.type == "cuda" else []
    drawn: list[list[_Drawn]] = []
    for number, scene in enumerate(scenes):
        with _on_stream(streams, number):
            drawn.append(_draw(scene, cameras, config, rasterizer, on, chunk_bytes))
    if streams:
        torch.cuda.synchronize(on)
    return [_gather(chunks) for chunks in drawn]


def _on_stream(streams: Sequence[torch.cuda.Stream], number: int) -> AbstractContextManager[object]:
    return torch.cuda.stream(streams[number % len(streams)]) if streams else nullcontext()


def _draw(
    scene: Scene,
    cameras: Cameras,
    config: RasterizerConfig,
    rasterizer: Rasterizer,
    device: torch.device,
    chunk_bytes: int,
) -> list[_Drawn]:
    """Queue the drawing of one mesh; wait for nothing."""
    side_px = cameras.size_px * config.supersampling
    view_bytes = len(scene.look.faces) * _BYTES_PER_FACE + side_px**2 * BYTES_PER_SAMPLE
    views_at_a_time = max(1, chunk_bytes // view_bytes)
    vertices = torch.as_tensor(scene.vertices, device=device)
    look = to_device(scene.look, device)
    chunks: list[_Drawn] = []
    for first in range(0, len(cameras.view_matrices), views_at_a_time):
        views = slice(first, first + views_at_a_time)
        some = Cameras(
            cameras.view_matrices[views], cameras.projection_matrices[views], cameras.size_px
        )
        chunks.append(_draw_views(vertices, look, some, config, rasterizer))
    return chunks


def _draw_views(
    vertices: Float32[Tensor, "n 3"],
    look: TorchLook,
    cameras: Cameras,
    config: RasterizerConfig,
    rasterizer: Rasterizer,
) -> _Drawn:
    """Queue the drawing of some views of a mesh."""
    kaolin = _import_kaolin()
    side_px = cameras.size_px * config.supersampling
    projected = _project(vertices, cameras, side_px)
    # From the last face to the first: of faces alike in all, Kaolin draws the first it meets.
    faces = look.faces.long().flip(0)
    by_face = kaolin.ops.mesh.index_vertices_by_faces
    inverse_depth = by_face(projected.inverse_depth[..., None], faces)
    places = by_face(projected.ndc, faces)
    bonus = 1 + _FRONT_BONUS * _is_front(places)[..., None]
    features, face_id = kaolin.render.mesh.rasterize(
        side_px,
        side_px,
        inverse_depth[..., 0] * bonus,
        places,
        inverse_depth,
        backend="cuda" if rasterizer == "kaolin" else "nvdiffrast",
    )
    is_covered = face_id >= 0
    face_id = torch.where(is_covered, len(faces) - 1 - face_id, -1).to(torch.int32)
    depth = torch.where(is_covered, 1 / features[..., 0], torch.inf)
    # To px of the fine raster, from which rays are counted as well.
    vertices_px = (projected.ndc * projected.ndc.new_tensor([1, -1]) + 1) * (side_px / 2)
    rays = rays_through(world_to_clip_of(cameras), side_px) * [SUBPIXEL, SUBPIXEL, 1]
    shaded = shade(
        look,
        vertices_px,
        projected.inverse_depth,
        face_id,
        torch.as_tensor(rays, device=vertices.device),
        torch.tensor(config.background, dtype=torch.float32, device=vertices.device),
        cameras.size_px,
    )
    is_outside = (projected.inverse_depth == 0)[:, look.faces.long()].any(dim=-1)
    tensors = (shaded.colour, shaded.coverage, depth, face_id, is_outside.sum(dim=1).int())
    return _Drawn(*(tensor.to("cpu", non_blocking=True) for tensor in tensors))


def _project(vertices: Float32[Tensor, "n 3"], cameras: Cameras, side_px: int) -> _Projected:
    """Project the vertices; 1/w is 0 where a vertex is behind the camera or far outside."""
    kaolin = _import_kaolin()
    projection = cameras.projection_matrices[0].astype(np.float64)
    camera = kaolin.render.camera.Camera.from_args(
        # Not by eye and target, which fails for a camera straight above or below.
        view_matrix=torch.as_tensor(cameras.view_matrices, device=vertices.device),
        fov=2 * math.atan(1 / projection[1, 1]),
        width=side_px,
        height=side_px,
        near=float(projection[2, 3] / (projection[2, 2] - 1)),
        far=float(projection[2, 3] / (projection[2, 2] + 1)),
        device=vertices.device,
    )
    in_camera = camera.extrinsics.transform(vertices)
    w = -in_camera[..., 2]
    to_clip = camera.projection_matrix()[:, :3, :3].transpose(1, 2)
    ndc = (in_camera @ to_clip)[..., :2] / w[..., None]
    inside = (w > 0) & (ndc.abs() < GUARD_NDC).all(dim=-1)
    return _Projected(
        torch.where(inside[..., None], ndc, torch.zeros_like(ndc)),
        torch.where(inside, 1 / w, torch.zeros_like(w)),
    )


def _is_front(places: Float32[Tensor, "V m 3 2"]) -> Bool[Tensor, "V m"]:
    """Tell which faces turn counter-clockwise on the screen, y up."""
    first, second = places[:, :, 1] - places[:, :, 0], places[:, :, 2] - places[:, :, 0]
    return first[..., 0] * second[..., 1] > first[..., 1] * second[..., 0]


def _gather(chunks: Sequence[_Drawn]) -> Rendering:
    """Put the views of a mesh together, once the device is done."""
    outside = torch.cat([chunk.faces_outside for chunk in chunks]).numpy()
    if outside.any():
        view = int(outside.argmax())
        raise outside_error(view, int(outside[view]))

    def joined(name: str) -> np.ndarray:
        return torch.cat([getattr(chunk, name) for chunk in chunks]).numpy()

    return Rendering(joined("colour"), joined("coverage"), joined("depth"), joined("face_id"))


def _import_kaolin() -> Any:  # noqa: ANN401 - a module without types
    """Import Kaolin with the parts that are used."""
    for part in ("ops.mesh", "render.camera", "render.mesh"):
        importlib.import_module(f"kaolin.{part}")
    return importlib.import_module("kaolin")
