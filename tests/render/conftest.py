"""Solids to render, and exact rays to compare with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from picpoint.geometry.cameras import Cameras
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.render.meshes import Material, Mesh


def mesh_of(vertices, faces, colors=((0.8, 0.5, 0.3),), face_material=None, **attributes) -> Mesh:
    """Build a mesh without textures."""
    if face_material is None:
        face_material = np.zeros(len(faces))
    return Mesh(
        vertices=np.ascontiguousarray(vertices, np.float32),
        faces=np.ascontiguousarray(faces, np.int32),
        face_material=np.ascontiguousarray(face_material, np.int32),
        materials=tuple(Material(color) for color in colors),
        uv=np.zeros((len(faces), 3, 2), np.float32),
        **attributes,
    )


@dataclass
class Rays:
    """What exact rays through the pixel centres of one view hit; -1 and inf where nothing."""

    face_id: np.ndarray
    depth: np.ndarray


def cast(mesh: Mesh, cameras: Cameras, view: int, side_px: int) -> Rays:
    """Cast a ray through each pixel centre, by un-projecting it: no code of the renderer's."""
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    to_world = np.linalg.inv(
        cameras.projection_matrices[view].astype(float) @ cameras.view_matrices[view].astype(float)
    )
    centre = (np.arange(side_px) + 0.5) / side_px * 2 - 1
    x, y = np.meshgrid(centre, -centre)
    near, far = (
        to_world @ np.stack([x.ravel(), y.ravel(), np.full(x.size, z), np.ones(x.size)])
        for z in (-1.0, 1.0)
    )
    origins, ends = (near[:3] / near[3]).T, (far[:3] / far[3]).T
    directions = ends - origins
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    hit = scene.run(
        origins.astype(np.float32), (directions / length).astype(np.float32), output=True
    )
    face_id = hit["primID"].reshape(side_px, side_px).astype(np.int64)
    along = np.where(hit["primID"] >= 0, hit["tfar"], 0)[:, None] / length
    places = origins + along * directions
    row = cameras.view_matrices[view, 2].astype(float)
    depth = -(places @ row[:3] + row[3]).reshape(side_px, side_px)
    return Rays(face_id, np.where(face_id >= 0, depth, np.inf))


@pytest.fixture(scope="session")
def rig() -> Cameras:
    """The paper's 20 views."""
    return build_cameras(RigConfig())


@pytest.fixture(scope="session")
def parallel_rig() -> Cameras:
    """The paper's 20 views, along parallel rays."""
    return build_cameras(RigConfig(projection="orthographic"))


@pytest.fixture(scope="session")
def letter_f() -> Mesh:
    """A letter F of three boxes: no symmetry. Each side of each box has a colour of its own."""
    boxes = [  # Middle, extents: the stem, the upper bar towards +x, the shorter lower bar.
        ((-0.25, 0.0, 0.0), (0.2, 1.2, 0.3)),
        ((0.1, 0.5, 0.05), (0.5, 0.2, 0.2)),
        ((0.0, 0.05, -0.05), (0.3, 0.15, 0.1)),
    ]
    solids = [
        trimesh.creation.box(extents, trimesh.transformations.translation_matrix(middle))
        for middle, extents in boxes
    ]
    sides = np.concatenate(
        [
            6 * box + np.argmax(solid.face_normals @ SIDES.T, axis=1)
            for box, solid in enumerate(solids)
        ]
    )
    solid = trimesh.util.concatenate(solids)
    return mesh_of(1.3 * solid.vertices, solid.faces, F_COLORS, sides)


SIDES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
F_COLORS = tuple(
    (0.2 + 0.4 * (i % 3), 0.2 + 0.4 * (i // 3 % 3), 0.3 + 0.6 * (i // 9)) for i in range(18)
)


@pytest.fixture(scope="session")
def tangle() -> Mesh:
    """Rings through each other and through a ball: much hides much."""
    solids = [trimesh.creation.icosphere(subdivisions=3, radius=0.35)]
    generator = np.random.default_rng(5)
    for _ in range(5):
        ring = trimesh.creation.torus(0.6, 0.08, major_sections=48, minor_sections=16)
        turn = trimesh.transformations.random_rotation_matrix(generator.random(3))
        turn[:3, 3] = generator.uniform(-0.2, 0.2, 3)
        solids.append(ring.apply_transform(turn))
    solid = trimesh.util.concatenate(solids)
    return mesh_of(solid.vertices, solid.faces)


@pytest.fixture(scope="session")
def new_mesh() -> Callable[..., Mesh]:
    """The function that builds a mesh without textures from vertices and faces."""
    return mesh_of


@pytest.fixture(scope="session")
def exact_rays() -> Callable[[Mesh, Cameras, int, int], Rays]:
    """The function that casts exact rays."""
    return cast
