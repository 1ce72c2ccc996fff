"""Cameras: the convention of frames, matrices and pixels."""

import numpy as np
import pytest
import torch

from picpoint.geometry.cameras import (
    look_at_origin,
    orthographic,
    perspective,
    world_to_pixel,
)
from picpoint.geometry.rigs import RigConfig, build_cameras


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


def test_parallel_rays_hit_the_same_pixel_at_any_depth():
    # The half picture is two units wide, whatever the depth.
    view = look_at_origin(np.array([0.0, 0.0, 2.0]))
    projection = orthographic(2.0, near=0.1, far=10.0)
    points = np.array([[0, 0, 0], [0.5, 0.25, 0], [0.5, 0.25, 1], [-1, 0.5, 3]], float)
    u, v, depth = world_to_pixel(points, view, projection, 100)
    np.testing.assert_allclose(u, [50, 62.5, 62.5, 25], atol=1e-9)
    np.testing.assert_allclose(v, [50, 43.75, 43.75, 37.5], atol=1e-9)
    np.testing.assert_allclose(depth, [2, 2, 1, -1], atol=1e-9)


@pytest.mark.parametrize(
    "projection", [perspective(0.6, near=1.0, far=8.0), orthographic(1.0, near=1.0, far=8.0)]
)
def test_a_camera_from_the_right_sees_the_front_on_its_left(projection):
    # From +x, the side of the thing that faces +z lies to the left: right-handed, not mirrored.
    view = look_at_origin(np.array([4.0, 0.0, 0.0]))
    u, v, _ = world_to_pixel(np.array([[0, 0, 0.5], [0, 0.5, 0]]), view, projection, 100)
    assert u[0] < 49
    assert u[1] == pytest.approx(50)
    assert v[1] < 49


@pytest.mark.parametrize(
    "projection", [perspective(0.6, near=1.5, far=4.0), orthographic(1.1, near=1.5, far=4.0)]
)
def test_near_and_far_planes_reach_the_ends_of_the_clip_cube(projection):
    clip = projection @ np.array([[0, 0, -1.5, 1], [0, 0, -4.0, 1]]).T
    np.testing.assert_allclose(clip[2] / clip[3], [-1, 1], atol=1e-12)


@pytest.mark.parametrize("height", [3.0, -3.0])
def test_a_camera_straight_above_or_below_is_well_defined(height: float):
    view = look_at_origin(np.array([0.0, height, 0.0]))
    np.testing.assert_allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view[:3, :3]) == pytest.approx(1)
    # What is said of the poles: -z is up from above, +z from below, so +x is right from both.
    np.testing.assert_allclose(view[:3, :3] @ [1, 0, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(view[:3, :3] @ [0, 0, -np.sign(height)], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_numpy_and_torch_project_alike(projection: str):
    cameras = build_cameras(RigConfig(projection=projection))
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 50, 3)).astype(np.float32)
    arrays = (points, cameras.view_matrices, cameras.projection_matrices)
    by_numpy = world_to_pixel(*arrays, 224)
    by_torch = world_to_pixel(*(torch.from_numpy(array) for array in arrays), 224)
    for expected, actual in zip(by_numpy, by_torch, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, atol=2e-4)
