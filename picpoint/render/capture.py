"""How does a mesh become a sample? Points, their normals, colours and visibility, and V pictures.

Deterministic: the same mesh, source id and config give the same bytes, on any machine and in any
order. Everything is computed from the values that are stored: points are rounded to float16 before
their order and visibility are found.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float16, UInt8

from picpoint.geometry.cameras import Cameras, RigConfig, build_cameras
from picpoint.geometry.clouds import SurfaceSample, fit_unit_sphere, sample_surface
from picpoint.geometry.visibility import pack_visibility, visible_points
from picpoint.ops.farthest import farthest_order
from picpoint.render.look import Look, build_look
from picpoint.render.meshes import Mesh, MeshError, in_grey
from picpoint.render.rasterizer import RasterizerConfig, check_raster, draw, px_per_unit
from picpoint.render.shading import colors_at
from shards.codec import encode_picture
from shards.schema import Sample, SampleMeta, SchemaError, check_sample


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
        rasterizer: how pictures are drawn.
        rig: from where.
    """

    num_points: int = 8192
    jpeg_quality: int = 94
    seed: int = 0
    surface: Literal["own", "grey"] = "own"
    rasterizer: RasterizerConfig = field(default_factory=RasterizerConfig)
    rig: RigConfig = field(default_factory=RigConfig)

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"num_points {self.num_points}: must be at least 1; usual is 8192")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality {self.jpeg_quality}: must be 1..100; usual is 94")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: must be at least 0; usual is 0")
        check_raster(self.rig.size_px, self.rasterizer.supersampling)


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
    """
    cameras = build_cameras(config.rig)
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
    pictures, visibility = _photograph(world, shown, points, cameras, config)
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
            rig=config.rig.name,
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
    cameras: Cameras,
    config: CaptureConfig,
) -> tuple[dict[int, bytes], UInt8[np.ndarray, "V packed"]]:
    """Render every view; give the encoded pictures and the packed visibility of the points."""
    rendering = draw(world.vertices, look, cameras, config.rasterizer)
    seen = visible_points(
        points.astype(np.float32),
        cameras.view_matrices,
        cameras.projection_matrices,
        cameras.size_px,
        world.vertices,
        world.faces,
        rendering.face_id,
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
