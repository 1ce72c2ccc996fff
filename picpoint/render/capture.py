"""How does a mesh become a sample? Points, their normals, colours and visibility, and V pictures.

Deterministic: the same mesh, source id and config give the same bytes with the same renderer, the
CPU's on any machine, and in any order. Everything is computed from the values that are stored:
points are rounded to float16 before their order and visibility are found (but `exact`).
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float16, UInt8

from picpoint.geometry.cameras import Cameras
from picpoint.geometry.clouds import SurfaceSample, fit_unit_sphere, sample_surface
from picpoint.geometry.rigs import RigConfig, build_cameras, build_rigs, join_cameras
from picpoint.geometry.visibility import (
    VisibilityRule,
    exactly_visible_points,
    pack_visibility,
    visible_points,
)
from picpoint.ops.farthest import farthest_order
from picpoint.render.look import Look, build_look
from picpoint.render.meshes import Mesh, MeshError, in_grey
from picpoint.render.rasterizer import RasterizerConfig, check_raster, px_per_unit
from picpoint.render.renderer import RendererName, build_renderer
from picpoint.render.shading import colors_at
from shards.codec import encode_picture
from shards.schema import MAX_VIEWS, RigViews, Sample, SampleMeta, SchemaError, check_sample


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """What is made of each mesh.

    Attributes:
        num_points: points of the stored cloud.
        jpeg_quality: 1..100.
        seed: of the surface sampling, together with the source id; at least 0.
        surface: what pictures show of it: its `own` colours and textures, or all of it `grey`, so
            that they tell of form and light alone. Paper: unspecified; here `own`. Points keep
            their own colours either way.
        renderer: what draws: `auto` is Kaolin, else CUDA, else the CPU, whichever this machine has
            (`resolve_renderer` says which). Renderers agree up to rounding, so a set whose bytes
            shall not depend on the machine names one. `nvdiffrast` must be named: its licence
            allows non-commercial use only.
        rasterizer: how pictures are sampled.
        visibility: `plane` asks the drawn face ids of the points as they are stored; `exact` asks
            every face of the points as they were sampled, which costs several times as much.
        rig: from where.
    """

    num_points: int = 8192
    jpeg_quality: int = 94
    seed: int = 0
    surface: Literal["own", "grey"] = "own"
    renderer: RendererName = "auto"
    rasterizer: RasterizerConfig = field(default_factory=RasterizerConfig)
    visibility: VisibilityRule = "plane"
    rig: RigConfig = field(default_factory=RigConfig)

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"num_points {self.num_points}: must be at least 1; usual is 8192")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality {self.jpeg_quality}: must be 1..100; usual is 94")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: must be at least 0; usual is 0")
        check_raster(self.rig.size_px, self.rasterizer.supersampling)
        num_views = len(build_cameras(self.rig).view_matrices)
        if self.needs_cpu_renderer and (
            self.renderer not in ("auto", "cpu") or self.visibility == "exact"
        ):
            raise ValueError(
                f"renderer={self.renderer}, visibility={self.visibility}: orthographic cameras are "
                "for the CPU's renderer and the plane rule; set renderer=cpu and visibility=plane"
            )
        if num_views > MAX_VIEWS:
            raise ValueError(
                f"rig names {list(self.rig.names)}: {num_views} views, and a sample holds at most "
                f"{MAX_VIEWS}; render some into another folder"
            )

    @property
    def needs_cpu_renderer(self) -> bool:
        """Whether a camera is orthographic: the other renderers draw in perspective only."""
        return bool(build_cameras(self.rig).is_orthographic.any())


def capture(mesh: Mesh, source_id: str, label: str, config: CaptureConfig) -> Sample:
    """Sample and render a mesh.

    Args:
        mesh: in its file's own frame and units, y up.
        source_id: where the shape came from; with `config.seed` it seeds the sampling.
        label: class name, or "".
        config: sizes, cameras, sampling.

    Raises:
        MeshError: `degenerate`, the mesh has no extent or no area; `breaks_schema`, what was made
            of it may not be written.
        RendererMissingError: the renderer cannot draw on this machine.
    """
    rigs = build_rigs(config.rig)
    cameras = join_cameras(rigs.values())
    seed = sampling_seed(config.seed, source_id)
    try:
        fit = fit_unit_sphere(mesh.vertices, mesh.faces)
        world = replace(mesh, vertices=fit.apply(mesh.vertices))
        surface = sample_surface(world.vertices, world.faces, config.num_points, seed)
    except ValueError as error:
        raise MeshError("degenerate", str(error)) from error
    points = surface.points.astype(np.float16)
    order = farthest_order(points.astype(np.float32))
    points = np.ascontiguousarray(points[order])
    surface = SurfaceSample(
        surface.points[order], surface.face_index[order], surface.barycentric[order]
    )
    look = build_look(world, px_per_unit(cameras))
    shown = look
    if config.surface == "grey":
        shown = build_look(in_grey(world), px_per_unit(cameras))
    pictures, visibility = _photograph(world, shown, points, surface, cameras, config)
    sample = Sample(
        points=points,
        normals=_normals_at(world, look, surface),
        colors=colors_at(look, surface.face_index, surface.barycentric),
        view_matrices=cameras.view_matrices,
        projection_matrices=cameras.projection_matrices,
        visibility=visibility,
        pictures=pictures,
        meta=SampleMeta(
            source_id=source_id,
            label=label,
            size_px=config.rig.size_px,
            rigs=tuple(RigViews(name, len(rig.view_matrices)) for name, rig in rigs.items()),
            seed=seed,
            center=fit.center,
            scale=fit.scale,
            num_faces=len(mesh.faces),
            warnings=mesh.warnings,
        ),
    )
    try:
        # Here and not only at the writer: one odd mesh is a reject, not the end of a shard.
        check_sample(sample, whole=True)
    except SchemaError as error:
        raise MeshError("breaks_schema", str(error)) from error
    return sample


def sampling_seed(seed: int, source_id: str) -> int:
    """Derive the seed of a shape's surface sampling, 48 bits, from the set's seed and its id."""
    digest = hashlib.sha256(f"{seed}:{source_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _photograph(
    world: Mesh,
    look: Look,
    points: Float16[np.ndarray, "P 3"],
    surface: SurfaceSample,
    cameras: Cameras,
    config: CaptureConfig,
) -> tuple[dict[int, bytes], UInt8[np.ndarray, "V packed"]]:
    """Render every view; give the encoded pictures and the packed visibility of the points."""
    name = "cpu" if cameras.is_orthographic.any() else config.renderer
    rendering = build_renderer(name, config.rasterizer).draw(world.vertices, look, cameras)
    matrices = cameras.view_matrices, cameras.projection_matrices, cameras.size_px
    match config.visibility:
        case "plane":
            stored = points.astype(np.float32)
            seen = visible_points(stored, *matrices, world.vertices, world.faces, rendering.face_id)
        case "exact":
            seen = exactly_visible_points(
                surface.points, surface.face_index, *matrices, world.vertices, world.faces
            )
    pictures = {
        view: encode_picture(picture, config.jpeg_quality)
        for view, picture in enumerate(rendering.colour)
    }
    return pictures, pack_visibility(seen)


def _normals_at(world: Mesh, look: Look, surface: SurfaceSample) -> Float16[np.ndarray, "P 3"]:
    """Give unit normals at sampled points: between the corners', or else the face's."""
    flat = look.face_normals[surface.face_index]
    if world.corner_normals is None:
        return flat.astype(np.float16)
    corners = world.corner_normals[surface.face_index]
    smooth = np.einsum("pk,pkc->pc", surface.barycentric, corners)
    length = np.linalg.norm(smooth, axis=1, keepdims=True)
    # Corner normals that cancel each other say nothing.
    return np.where(length > 1e-6, smooth / np.maximum(length, 1e-6), flat).astype(np.float16)
