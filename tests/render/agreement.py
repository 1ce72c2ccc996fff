"""What all renderers draw in the tests: meshes that differ in kind, small pictures, few views."""

from dataclasses import dataclass, replace

import numpy as np
import trimesh

from picpoint.geometry.cameras import Cameras
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.render.meshes import Material, Mesh
from picpoint.render.normals import crease_normals
from picpoint.render.rasterizer import SUBPIXEL, RasterizerConfig

CONFIG = RasterizerConfig(supersampling=2, background=(1.0, 0.9, 0.8))


def some_views(views: list[int], size_px: int) -> Cameras:
    """Some of the paper's 20 views."""
    rig = build_cameras(RigConfig(size_px=size_px))
    return Cameras(rig.view_matrices[views], rig.projection_matrices[views], size_px)


def meshes() -> dict[str, Mesh]:
    """Meshes by kind; none is like its mirror image."""
    stairs = _stairs()
    inward = stairs.faces[:, [0, 2, 1]]
    generator = np.random.default_rng(4)
    return {
        "stairs": stairs,
        "double-faced": _with_faces(stairs, np.concatenate([stairs.faces, inward])),
        "open": _with_faces(stairs, stairs.faces[generator.permutation(36)[:24]]),
        "textured": _ring(generator),
        "tiny": replace(stairs, vertices=stairs.vertices * np.float32(0.08)),
        "huge": replace(stairs, vertices=stairs.vertices * np.float32(1.7)),
        "two planes": _two_planes(),
    }


@dataclass(frozen=True)
class Centred:
    """Faces between pixel centres: edges run through centres, and pairs of faces share them."""

    faces: np.ndarray
    snapped: np.ndarray
    inverse_depth: np.ndarray
    side_px: int = 12


def centred() -> Centred:
    """Triangles on a 12 x 12 raster, each twice with opposite winding, in one plane and tilted."""
    generator = np.random.default_rng(6)
    snapped = generator.integers(-2, 14, (14, 2)) * SUBPIXEL + SUBPIXEL // 2
    faces = np.array([generator.permutation(14)[:3] for _ in range(40)])
    return Centred(
        faces=np.concatenate([faces, faces[:, ::-1]]).astype(np.int32),
        snapped=snapped.astype(np.int32),
        inverse_depth=np.where(np.arange(14) < 7, 0.25, generator.uniform(0.2, 0.3, 14)).astype(
            np.float32
        ),
    )


def cube() -> Mesh:
    """A cube of 12 faces that goes right up to the unit sphere."""
    box = trimesh.creation.box((1.1, 1.1, 1.1))
    return _plain(box.vertices, box.faces)


def _plain(vertices, faces, **attributes) -> Mesh:
    return Mesh(
        vertices=np.ascontiguousarray(vertices, np.float32),
        faces=np.ascontiguousarray(faces, np.int32),
        face_material=np.zeros(len(faces), np.int32),
        materials=(Material((0.9, 0.6, 0.7)),),
        uv=np.zeros((len(faces), 3, 2), np.float32),
        **attributes,
    )


def _with_faces(mesh: Mesh, faces) -> Mesh:
    return _plain(mesh.vertices, faces, vertex_colors=mesh.vertex_colors)


def _stairs() -> Mesh:
    """Three steps of different widths, their corners in colours of their own."""
    extents = [(1.0, 0.3, 0.4), (0.7, 0.3, 0.4), (0.3, 0.3, 0.5)]
    # They reach into each other: of faces in one plane any might be seen.
    middles = [(0.0, -0.4, 0.0), (-0.13, -0.17, 0.1), (0.3, 0.1, -0.12)]
    solids = [
        trimesh.creation.box(extent, trimesh.transformations.translation_matrix(middle))
        for extent, middle in zip(extents, middles, strict=True)
    ]
    solid = trimesh.util.concatenate(solids)
    colors = np.random.default_rng(3).integers(0, 256, (len(solid.vertices), 3), dtype=np.uint8)
    return _plain(solid.vertices, solid.faces, vertex_colors=colors)


def _ring(generator: np.random.Generator) -> Mesh:
    """A smooth ring under a texture whose coordinates leave the unit square."""
    ring = trimesh.creation.torus(0.6, 0.25, major_sections=8, minor_sections=5)
    mesh = _plain(ring.vertices, ring.faces)
    texture = generator.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    return replace(
        mesh,
        materials=(Material((0.9, 1.0, 0.8), texture),),
        uv=generator.uniform(-1, 2, (len(mesh.faces), 3, 2)).astype(np.float32),
        corner_normals=crease_normals(mesh.vertices, mesh.faces, crease_rad=1.5),
    )


def _two_planes() -> Mesh:
    """Two squares, one behind the other and to its side, in two colours."""
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 0.4
    near, far = np.array([0.1, 0, 0.3]), np.array([-0.1, 0.15, -0.3])
    vertices = np.concatenate([square + near, square + far])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    colors = np.repeat([[250, 10, 10], [10, 10, 250]], 4, axis=0).astype(np.uint8)
    return _plain(vertices, faces, vertex_colors=colors)
