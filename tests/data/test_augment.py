import numpy as np
import pytest

from picpoint.data.augment import (
    AugmentConfig,
    jitter_points,
    move_cameras,
    move_points,
    random_motion,
)
from picpoint.geometry.cameras import world_to_pixel
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.ops.farthest import farthest_order

POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 3)).astype(np.float32)
ROTATIONS = ("none", "yaw", "any")


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_moved_point_keeps_its_pixel(rotation: str, projection: str) -> None:
    cameras = build_cameras(RigConfig(projection=projection))
    motion = random_motion(AugmentConfig(rotation=rotation), np.random.default_rng(1))
    before = world_to_pixel(POINTS[None], cameras.view_matrices, cameras.projection_matrices, 224)
    after = world_to_pixel(
        move_points(POINTS, motion)[None],
        move_cameras(cameras.view_matrices, motion),
        cameras.projection_matrices,
        224,
    )
    assert not np.allclose(move_points(POINTS, motion), POINTS)
    # float32 pixels near 112 resolve 1e-5; two matrix products lose a digit more.
    np.testing.assert_allclose(after[0], before[0], atol=1e-3)
    np.testing.assert_allclose(after[1], before[1], atol=1e-3)


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_motion_is_a_similarity_that_does_not_mirror(rotation: str) -> None:
    for seed in range(20):
        linear = random_motion(AugmentConfig(rotation=rotation), np.random.default_rng(seed))
        linear = linear[:3, :3]
        scale = np.cbrt(np.linalg.det(linear))
        assert 0.8 <= scale <= 1.2
        np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-12)


def test_yaw_keeps_up_and_any_does_not() -> None:
    up = np.array([0.0, 1.0, 0.0])
    yaw = AugmentConfig(rotation="yaw", scale_min=1.0, scale_max=1.0)
    anyhow = AugmentConfig(rotation="any", scale_min=1.0, scale_max=1.0)
    assert np.allclose(random_motion(yaw, np.random.default_rng(0))[:3, :3] @ up, up)
    assert not np.allclose(random_motion(anyhow, np.random.default_rng(0))[:3, :3] @ up, up)


def test_a_motion_keeps_the_farthest_point_order() -> None:
    # Random points: distances differ by far more than float32 rounding, so no tie decides.
    points = POINTS[farthest_order(POINTS)]
    for seed in range(5):
        moved = move_points(points, random_motion(AugmentConfig(), np.random.default_rng(seed)))
        np.testing.assert_array_equal(farthest_order(moved), np.arange(len(points)))


def test_jitter_breaks_that_order_and_says_so() -> None:
    points = POINTS[farthest_order(POINTS)]
    jittered = jitter_points(points, 0.02, np.random.default_rng(0))
    assert (farthest_order(jittered) != np.arange(len(points))).any()
    assert not AugmentConfig(jitter=0.02).keeps_farthest_order
    assert AugmentConfig().keeps_farthest_order


def test_jitter_is_clipped_at_three_deviations() -> None:
    moved = jitter_points(np.zeros((100_000, 3), np.float32), 0.01, np.random.default_rng(0))
    assert np.abs(moved).max() <= 0.03 + 1e-7
    assert moved.std() == pytest.approx(0.01, rel=0.05)
