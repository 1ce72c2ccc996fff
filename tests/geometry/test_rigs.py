"""Rigs: cameras look at the origin, frame the unit sphere, and keep to their layout's order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picpoint.geometry.cameras import Cameras, world_to_pixel
from picpoint.geometry.layouts import directions, dodecahedron_vertices, parse_layout
from picpoint.geometry.rigs import RigConfig, build_cameras, build_rigs

ALL_LAYOUTS = (
    "dodecahedron",
    "octahedron",
    "icosahedron",
    "icosidodecahedron",
    "fibonacci_5",
    "ring_6_-80deg",
    "random_4_seed0",
)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return build_cameras(RigConfig())


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


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_every_camera_of_every_layout_frames_the_unit_sphere(projection: str):
    cameras = build_cameras(RigConfig(ALL_LAYOUTS, projection, size_px=100))
    sphere = np.random.default_rng(0).normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for view, lens in zip(cameras.view_matrices, cameras.projection_matrices, strict=True):
        u, v, depth = world_to_pixel(sphere, view.astype(float), lens.astype(float), 100)
        reach = np.hypot(u - 50, v - 50).max()
        # 2 % of the half picture are left; 20,000 points come within 1 % of the sphere's outline.
        assert 48.5 < reach < 49.001
        assert depth.min() > 1
        clip = (lens @ view) @ np.column_stack([sphere[:1000], np.ones(1000)]).T
        assert (np.abs(clip[2] / clip[3]) < 1).all()


def test_rigs_lie_one_after_another_as_if_each_were_alone():
    rigs = build_rigs(RigConfig(ALL_LAYOUTS))
    assert tuple(rigs) == ALL_LAYOUTS
    together = build_cameras(RigConfig(ALL_LAYOUTS))
    first = 0
    for name in ALL_LAYOUTS:
        alone = build_cameras(RigConfig((name,)))
        last = first + len(alone.view_matrices)
        np.testing.assert_array_equal(together.view_matrices[first:last], alone.view_matrices)
        np.testing.assert_array_equal(rigs[name].view_matrices, alone.view_matrices)
        stands_at = alone.positions / np.linalg.norm(alone.positions, axis=1, keepdims=True)
        np.testing.assert_allclose(stands_at, directions(parse_layout(name)), atol=1e-6)
        first = last
    assert first == len(together.view_matrices) == len(together.projection_matrices)


@pytest.mark.parametrize(
    "settings",
    [
        {"fov_rad": 0.0},
        {"fov_rad": 4.0},
        {"fov_rad": np.nan},
        {"size_px": 0},
        {"names": ()},
        {"names": ("octahedron", "octahedron")},
    ],
)
def test_an_impossible_rig_is_refused(settings: dict[str, Any]):
    with pytest.raises(ValueError, match="must be"):
        RigConfig(**settings)


def write_octahedron(path: Path) -> Path:
    """Write the octahedron's matrices as a file of one's own."""
    cameras = build_cameras(RigConfig(("octahedron",)))
    matrices = {
        "view_matrices": cameras.view_matrices.tolist(),
        "projection_matrices": cameras.projection_matrices.tolist(),
    }
    path.write_text(json.dumps(matrices))
    return path


def test_a_file_gives_its_matrices_and_its_digest(tmp_path: Path):
    path = write_octahedron(tmp_path / "mine.json")
    config = RigConfig(("ring_3_0deg", f"file:{path}"))
    rigs = build_rigs(config)
    assert list(rigs)[1].startswith("file:mine.json@")
    expected = build_cameras(RigConfig(("octahedron",)))
    np.testing.assert_array_equal(list(rigs.values())[1].view_matrices, expected.view_matrices)
    assert config.names[1] == f"file:{path}@{list(rigs)[1].partition('@')[2]}"
    assert RigConfig(config.names) == config


def test_a_file_that_changed_is_another_rig_and_is_not_taken_for_the_old(tmp_path: Path):
    path = write_octahedron(tmp_path / "mine.json")
    before = RigConfig((f"file:{path}",))
    path.write_text(path.read_text() + "\n")
    assert RigConfig((f"file:{path}",)) != before
    with pytest.raises(ValueError, match="its content is"):
        build_cameras(before)


def test_the_same_file_twice_is_refused(tmp_path: Path):
    path = write_octahedron(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="each once"):
        RigConfig((f"file:{path}", f"file:{tmp_path}/./mine.json"))
