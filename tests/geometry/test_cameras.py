"""Cameras: the convention of frames, matrices and pixels, and the rig."""

from typing import Any

import numpy as np
import pytest
import torch

from picpoint.geometry.cameras import (
    Cameras,
    look_at_origin,
    perspective,
    world_to_pixel,
)
from picpoint.geometry.layouts import dodecahedron_vertices
from picpoint.geometry.rigs import RigConfig, build_cameras


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return build_cameras(RigConfig())


def test_hand_computed_points_land_on_their_pixels():
    # Two units in front of the origin, opening 90 degrees: at the origin the half picture is two
    # units wide, at z = 1 one unit.
    view = look_at_origin(np.array([0.0, 0.0, 2.0]))
    projection = perspective(np.pi / 2, near=0.1, far=10.0)
    points = np.array([[0, 0, 0], [0.5, 0.25, 0], [-1, 0.5, 0], [0.5, 0.5, 1], [0, 0, 3]], float)
    u, v, depth = world_to_pixel(points, view, projection, 100)
    np.testing.assert_allclose(u[:4], [50, 62.5, 25, 75], atol=1e-9)
    np.testing.assert_allclose(v[:4], [50, 43.75, 37.5, 25], atol=1e-9)
    np.testing.assert_allclose(depth, [2, 2, 2, 1, -1], atol=1e-9)


def test_a_camera_from_the_right_sees_the_front_on_its_left():
    # From +x, the side of the thing that faces +z lies to the left: right-handed, not mirrored.
    view = look_at_origin(np.array([4.0, 0.0, 0.0]))
    projection = perspective(0.6, near=1.0, far=8.0)
    u, v, _ = world_to_pixel(np.array([[0, 0, 0.5], [0, 0.5, 0]]), view, projection, 100)
    assert u[0] < 49
    assert u[1] == pytest.approx(50)
    assert v[1] < 49


def test_near_and_far_planes_reach_the_ends_of_the_clip_cube():
    projection = perspective(0.6, near=1.5, far=4.0)
    clip = projection @ np.array([[0, 0, -1.5, 1], [0, 0, -4.0, 1]]).T
    np.testing.assert_allclose(clip[2] / clip[3], [-1, 1], atol=1e-12)


def test_view_matrices_are_rotations_and_translations(cameras: Cameras):
    rotations = cameras.view_matrices[:, :3, :3].astype(np.float64)
    identity = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-6)
    np.testing.assert_array_equal(cameras.view_matrices[:, 3], np.tile([0, 0, 0, 1], (20, 1)))


def test_cameras_stand_on_the_vertices_of_the_rig_and_look_at_the_origin(cameras: Cameras):
    positions = cameras.positions.astype(np.float64)
    distance = np.linalg.norm(positions, axis=1)
    np.testing.assert_allclose(distance, distance[0], rtol=1e-6)
    np.testing.assert_allclose(positions / distance[:, None], dodecahedron_vertices(), atol=1e-6)
    u, v, depth = world_to_pixel(
        np.zeros((20, 1, 3), np.float32), cameras.view_matrices, cameras.projection_matrices, 224
    )
    np.testing.assert_allclose(u, 112, atol=1e-3)
    np.testing.assert_allclose(v, 112, atol=1e-3)
    np.testing.assert_allclose(depth[:, 0], distance, rtol=1e-6)


def test_up_in_the_world_is_up_in_every_picture(cameras: Cameras):
    points = np.array([[0, 0, 0], [0, 0.1, 0]], np.float32)
    u, v, _ = world_to_pixel(points, cameras.view_matrices, cameras.projection_matrices, 224)
    np.testing.assert_allclose(u[:, 1], 112, atol=1e-3)
    assert (v[:, 1] < v[:, 0] - 1).all()


def test_the_unit_sphere_fills_every_picture_and_stays_inside(cameras: Cameras):
    sphere = np.random.default_rng(0).normal(size=(200_000, 3))
    sphere = (sphere / np.linalg.norm(sphere, axis=1, keepdims=True)).astype(np.float32)
    for view, projection in zip(cameras.view_matrices, cameras.projection_matrices, strict=True):
        u, v, depth = world_to_pixel(sphere, view, projection, 224)
        for pixels in (u, v):
            assert 0 < pixels.min() < 5
            assert 219 < pixels.max() < 224
        clip = (projection @ view) @ np.column_stack([sphere[:1000], np.ones(1000)]).T
        assert (np.abs(clip[2] / clip[3]) < 1).all()
        assert depth.min() > 0


@pytest.mark.parametrize("fov_rad", [0.2, 1.2, 2.5])
def test_the_unit_sphere_stays_inside_at_any_field_of_view(fov_rad: float):
    cameras = build_cameras(RigConfig(fov_rad=fov_rad, size_px=100))
    sphere = np.random.default_rng(0).normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    view = cameras.view_matrices[0].astype(float)
    u, v, _ = world_to_pixel(sphere, view, cameras.projection_matrices[0].astype(float), 100)
    assert 0.5 < min(u.min(), v.min()) < 2
    assert 98 < max(u.max(), v.max()) < 99.5


def test_the_dodecahedron_is_regular():
    vertices = dodecahedron_vertices()
    assert vertices.shape == (20, 3)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(vertices.sum(axis=0), 0, atol=1e-12)
    cosines = np.sort(vertices @ vertices.T, axis=1)[:, ::-1]
    # Each vertex has itself, three neighbours along edges, at acos(sqrt(5) / 3), and six next.
    np.testing.assert_allclose(cosines[:, 1:4], np.sqrt(5) / 3, atol=1e-12)
    np.testing.assert_allclose(cosines[:, 4:10], 1 / 3, atol=1e-12)
    np.testing.assert_allclose(cosines[:, -1], -1, atol=1e-12)


@pytest.mark.parametrize("height", [3.0, -3.0])
def test_a_camera_straight_above_or_below_is_well_defined(height: float):
    view = look_at_origin(np.array([0.0, height, 0.0]))
    np.testing.assert_allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view[:3, :3]) == pytest.approx(1)
    # What is said of the poles: -z is up from above, +z from below, so +x is right from both.
    np.testing.assert_allclose(view[:3, :3] @ [1, 0, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(view[:3, :3] @ [0, 0, -np.sign(height)], [0, 1, 0], atol=1e-12)


def test_numpy_and_torch_project_alike(cameras: Cameras):
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 50, 3)).astype(np.float32)
    arrays = (points, cameras.view_matrices, cameras.projection_matrices)
    by_numpy = world_to_pixel(*arrays, 224)
    by_torch = world_to_pixel(*(torch.from_numpy(array) for array in arrays), 224)
    for expected, actual in zip(by_numpy, by_torch, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, atol=2e-4)


@pytest.mark.parametrize(
    "settings", [{"fov_rad": 0.0}, {"fov_rad": 4.0}, {"fov_rad": np.nan}, {"size_px": 0}]
)
def test_an_impossible_rig_is_refused(settings: dict[str, Any]):
    with pytest.raises(ValueError, match="must be"):
        RigConfig(**settings)
