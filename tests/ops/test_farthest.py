import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from picpoint.ops.farthest import farthest_order


def plain_farthest_point_sampling(points, count, start):
    """Choose by the definition, slowly, and say by how much each choice was decided.

    Returns the rows, and the smallest relative gap between the best and the second best candidate.
    """
    rows, smallest_gap = [start], np.inf
    for _ in range(count - 1):
        distance = np.full(len(points), np.inf)
        for row in rows:
            offset = points - points[row]
            x, y, z = offset.T
            distance = np.minimum(distance, x * x + y * y + z * z)
        distance[rows] = -1
        rows.append(int(distance.argmax()))
        best, second = np.sort(distance)[::-1][:2]
        if second > 0:
            smallest_gap = min(smallest_gap, (best - second) / best)
    return np.array(rows), smallest_gap


def random_cloud(seed, num_points):
    return np.random.default_rng(seed).uniform(-1, 1, (num_points, 3)).astype(np.float32)


# 255..257 and 513 stand around the edges of the kernel's blocks.
@pytest.mark.parametrize("num_points", [1, 2, 3, 100, 255, 256, 257, 513])
def test_order_is_what_the_definition_chooses(num_points):
    points = random_cloud(num_points, num_points)
    count = min(num_points, 120)
    expected, _ = plain_farthest_point_sampling(points, count, start=num_points // 2)
    np.testing.assert_array_equal(farthest_order(points, count, start=num_points // 2), expected)


# Whole numbers: many points coincide and most choices are ties, which float32 computes exactly.
@settings(max_examples=60, deadline=None)
@given(
    cells=hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(0, 3))
)
def test_ties_go_to_the_lowest_row_and_every_row_comes_once(cells):
    points = cells.astype(np.float32)
    order = farthest_order(points)
    assert sorted(order) == list(range(len(points)))
    expected, _ = plain_farthest_point_sampling(points, len(points), start=0)
    np.testing.assert_array_equal(order, expected)


def test_first_k_of_the_full_order_are_the_sample_of_k():
    points = random_cloud(0, 1500)
    full = farthest_order(points, start=7)
    assert sorted(full) == list(range(1500))
    for count in (0, 1, 2, 64, 512, 1024):
        np.testing.assert_array_equal(farthest_order(points, count, start=7), full[:count])


@pytest.mark.parametrize("seed", range(5))
def test_order_survives_rigid_motion_and_uniform_scaling(seed):
    generator = np.random.default_rng(seed)
    points = random_cloud(seed, 200)
    count = 60
    _, gap = plain_farthest_point_sampling(points.astype(np.float64), count, start=0)
    # float32 rounding moves a squared distance by some 1e-6 of it; a choice decided by less than
    # that may turn, so this cloud must have none.
    assert gap > 1e-5, "pick another seed"
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    moved = generator.uniform(0.3, 3) * (points @ rotation.T) + generator.uniform(-0.5, 0.5, 3)
    expected = farthest_order(points, count)
    np.testing.assert_array_equal(farthest_order(moved.astype(np.float32), count), expected)


def test_rows_of_a_strided_cloud_are_read_rightly():
    wide = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    order = farthest_order(wide[::2, 1:4])
    np.testing.assert_array_equal(order, farthest_order(np.ascontiguousarray(wide[::2, 1:4])))


@pytest.mark.parametrize(
    ("count", "start", "rule"),
    [(6, 0, "count 6"), (-1, 0, "count -1"), (2, 5, "start 5"), (2, -1, "start -1")],
)
def test_asking_for_points_that_are_not_there_is_refused(count, start, rule):
    with pytest.raises(ValueError, match=rule):
        farthest_order(random_cloud(0, 5), count, start)
