"""Visibility of points: against exact rays, and by hand on one plane."""

import numpy as np
import pytest
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from picpoint.geometry.cameras import look_at_origin, orthographic, perspective
from picpoint.geometry.clouds import sample_surface
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.geometry.visibility import exactly_visible_points, pack_visibility, visible_points
from picpoint.render.meshes import Material, Mesh
from picpoint.render.rasterizer import RasterizerConfig, render


def tangle(sections: int) -> Mesh:
    """Build rings through each other and through a ball: much hides much."""
    solids = [trimesh.creation.icosphere(subdivisions=3, radius=0.35)]
    generator = np.random.default_rng(sections)
    for _ in range(5):
        ring = trimesh.creation.torus(
            0.6, 0.1, major_sections=sections, minor_sections=sections // 3
        )
        turn = trimesh.transformations.random_rotation_matrix(generator.random(3))
        turn[:3, 3] = generator.uniform(-0.2, 0.2, 3)
        solids.append(ring.apply_transform(turn))
    solid = trimesh.util.concatenate(solids)
    return Mesh(
        vertices=solid.vertices.astype(np.float32),
        faces=solid.faces.astype(np.int32),
        face_material=np.zeros(len(solid.faces), np.int32),
        materials=(Material((0.5, 0.5, 0.5)),),
        uv=np.zeros((len(solid.faces), 3, 2), np.float32),
    )


def exactly_visible(points, mesh: Mesh, cameras) -> np.ndarray:
    """Cast a ray from each camera to each point: is the point the first thing it meets?

    The rays of an orthographic camera are parallel and start 2 units before their points.
    """
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    seen = np.zeros((len(cameras.positions), len(points)), bool)
    for view, position in enumerate(cameras.positions.astype(float)):
        origins = np.repeat(position[None], len(points), axis=0)
        if cameras.projection_matrices[view, 3, 3] == 1:
            origins = points + 2 * cameras.view_matrices[view, 2, :3].astype(float)
        rays = points - origins
        length = np.linalg.norm(rays, axis=1)
        directions = (rays / length[:, None]).astype(np.float32)
        hit = scene.run(origins.astype(np.float32), directions, output=True)
        seen[view] = hit["tfar"] > length * (1 - 1e-4)
    return seen


@pytest.mark.parametrize(
    ("sections", "projection"),
    [(24, "perspective"), (96, "perspective"), (240, "perspective"), (96, "orthographic")],
)
def test_visibility_of_stored_points_agrees_with_exact_rays(sections: int, projection: str):
    mesh, cameras = tangle(sections), build_cameras(RigConfig(projection=projection))
    rendering = render(mesh, cameras, RasterizerConfig(supersampling=2))
    points = sample_surface(mesh.vertices, mesh.faces, 8192, seed=1).points
    stored = points.astype(np.float16).astype(np.float32)
    matrices = (cameras.view_matrices, cameras.projection_matrices)
    seen = visible_points(stored, *matrices, 224, mesh.vertices, mesh.faces, rendering.face_id)
    truth = exactly_visible(points.astype(float), mesh, cameras)
    assert 0.1 < truth.mean() < 0.4
    f1 = 2 * (seen & truth).sum() / (seen.sum() + truth.sum())
    assert f1 > 0.95


@pytest.mark.parametrize("sections", [24, 96])
def test_the_exact_rule_is_exact(sections: int):
    mesh, cameras = tangle(sections), build_cameras(RigConfig())
    sample = sample_surface(mesh.vertices, mesh.faces, 8192, seed=1)
    truth = exactly_visible(sample.points.astype(float), mesh, cameras)
    matrices = (cameras.view_matrices, cameras.projection_matrices)
    given = (mesh.vertices, mesh.faces)
    seen = exactly_visible_points(sample.points, sample.face_index, *matrices, 224, *given)
    f1 = 2 * (seen & truth).sum() / (seen.sum() + truth.sum())
    assert f1 > 0.9999
    # The grid sorts the points, and no more.
    coarse = exactly_visible_points(sample.points, sample.face_index, *matrices, 17, *given)
    np.testing.assert_array_equal(seen, coarse)


def test_by_the_exact_rule_only_other_faces_hide_a_point(plane):
    del plane["face_id"]
    points = np.array([[0, 0, 0], [0.3, 0.4, -0.01], [0.3, 0.4, 0.01], [0, 0, 3], [3, 0, 0]])
    own = np.zeros(5, np.int64)
    seen = exactly_visible_points(points.astype(np.float32), own, **plane)
    np.testing.assert_array_equal(seen, [[True, True, True, False, False]])
    of_another = exactly_visible_points(points.astype(np.float32), own + 1, **plane)
    np.testing.assert_array_equal(of_another, [[True, False, True, False, False]])


@pytest.fixture
def plane():
    """One face in the plane z = 0, before a camera at z = 2 that sees it wherever it looks."""
    vertices = np.array([[-5, -5, 0], [5, -5, 0], [0, 5, 0]], np.float32)
    return {
        "view_matrices": look_at_origin(np.array([0, 0, 2.0]))[None].astype(np.float32),
        "projection_matrices": perspective(np.pi / 2, 0.1, 10.0)[None].astype(np.float32),
        "size_px": 8,
        "vertices": vertices,
        "faces": np.array([[0, 1, 2]], np.int32),
        "face_id": np.zeros((1, 16, 16), np.int32),
    }


@pytest.fixture
def parallel_plane(plane):
    """The same plane, seen along parallel rays; the half picture is 2 units wide."""
    return plane | {"projection_matrices": orthographic(2.0, 0.1, 10.0)[None].astype(np.float32)}


def test_a_point_beside_the_viewing_axis_is_seen_along_its_own_ray(parallel_plane):
    # The steep plane z = -4y. The ray to the first point meets it only behind the camera, while a
    # ray from the camera's middle would meet it on its way; the other points lie on either side.
    parallel_plane["vertices"] = np.array([[-5, -1, 4], [5, -1, 4], [0, 1, -4]], np.float32)
    points = np.array([[0, -1, -0.5], [0.2, 0.25, -0.9], [0.2, 0.25, -1.1]], np.float32)
    seen = visible_points(points, **parallel_plane)
    np.testing.assert_array_equal(seen, [[True, True, False]])


def test_a_point_behind_a_parallel_camera_or_outside_its_picture_is_not_seen(parallel_plane):
    points = [[1.99, 0, 0], [2.01, 0, 0], [0, -2.01, 0], [0, 0, 1.9], [0, 0, 2.1], [0.1, 0, 5]]
    seen = visible_points(np.array(points, np.float32), **parallel_plane)
    np.testing.assert_array_equal(seen, [[True, False, False, True, False, False]])


def test_a_point_is_seen_unless_it_lies_behind_the_visible_plane(plane):
    points = [[0, 0, 0], [0.3, 0.4, 0.5], [0.3, 0.4, -0.003], [0.3, 0.4, -0.005], [0, 0, -3]]
    seen = visible_points(np.array(points, np.float32), **plane)
    np.testing.assert_array_equal(seen, [[True, True, True, False, False]])


def test_points_outside_the_picture_or_behind_the_camera_are_not_seen(plane):
    points = [[1.99, 0, 0], [2.01, 0, 0], [0, -2.01, 0], [0, 0, 2.5], [0, 0, 2], [0.1, 0, 5]]
    seen = visible_points(np.array(points, np.float32), **plane)
    np.testing.assert_array_equal(seen, [[True, False, False, False, False, False]])


def test_a_point_where_nothing_is_drawn_is_not_seen(plane):
    plane["face_id"][0, :8, :8] = -1
    points = [[-0.1, 0.1, 0], [0.1, 0.1, 0], [-0.1, -0.1, 0], [-1.9, 1.9, 0]]
    seen = visible_points(np.array(points, np.float32), **plane)
    np.testing.assert_array_equal(seen, [[False, True, True, False]])


def test_either_side_of_a_plane_hides_what_is_behind_it(plane):
    plane["faces"] = np.ascontiguousarray(plane["faces"][:, ::-1])
    points = np.array([[0.2, 0.1, 0.1], [0.2, 0.1, -0.1]], np.float32)
    np.testing.assert_array_equal(visible_points(points, **plane), [[True, False]])


def test_a_raster_that_is_no_multiple_of_the_picture_is_refused(plane):
    plane["size_px"] = 7
    with pytest.raises(ValueError, match="multiple"):
        visible_points(np.zeros((1, 3), np.float32), **plane)


def test_packed_bits_come_back_in_order():
    seen = np.random.default_rng(0).random((3, 21)) < 0.5
    packed = pack_visibility(seen)
    assert packed.shape == (3, 3)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1, count=21).astype(bool), seen)
