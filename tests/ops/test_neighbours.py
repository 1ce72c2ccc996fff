import numpy as np
import pytest
import torch
from torch import Tensor

from picpoint.ops.neighbours import nearest_neighbours, nearest_neighbours_plain


def _clouds(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _squared_distances(points: Tensor) -> Tensor:
    wide = points.double()
    return (wide[:, :, None] - wide[:, None]).square().sum(dim=-1)


@pytest.mark.parametrize(
    ("num_points", "width", "k"),
    [
        (300, 3, 20),
        (300, 64, 20),
        (512, 5, 16),
        (257, 128, 40),
        (33, 3, 33),
        (16, 64, 5),
        (1, 3, 1),
    ],
)
def test_neighbours_are_the_nearest_in_rising_order(num_points, width, k):
    points = _clouds(2, num_points, width)
    index = nearest_neighbours(points, k)
    distances = _squared_distances(points)
    found = distances.gather(2, index)
    nearest = distances.sort(dim=-1).values[:, :, :k]
    # Products of a row of `width` float32 numbers differ from the truth by this, at most.
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-5 * width)
    assert (index.sort(dim=-1).values.diff(dim=-1) > 0).all()
    torch.testing.assert_close(index[:, :, 0], torch.arange(num_points).expand(2, -1))


@pytest.mark.parametrize("width", [3, 64])
def test_fast_and_plain_neighbours_agree_where_no_distances_tie(width):
    # On a grid of integers the distances are exact; distinct powers of two never tie.
    points = torch.zeros(1, 12, width)
    points[0, :, 0] = 2.0 ** torch.arange(12)
    assert torch.equal(nearest_neighbours(points, 4), nearest_neighbours_plain(points, 4))


@pytest.mark.parametrize("width", [3, 64])
def test_of_equal_distances_the_lower_row_wins(width):
    rng = np.random.default_rng(0)
    points = torch.zeros(1, 100, width)
    points[0, :, :2] = torch.from_numpy(rng.integers(0, 4, (100, 2))).float()
    # The mean is taken off first, which must not break ties of whole numbers: make it zero.
    points = torch.cat([points, -points], dim=1)
    distances = _squared_distances(points)
    expected = distances.sort(dim=-1, stable=True).indices[:, :, :30]
    assert torch.equal(nearest_neighbours(points, 30), expected)


def test_a_cloud_of_identical_points_is_searched_safely():
    index = nearest_neighbours(torch.zeros(2, 1024, 64), 20)
    assert torch.equal(index, torch.arange(20).expand(2, 1024, -1))


@pytest.mark.parametrize("width", [3, 64])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_numbers_still_give_rows_of_the_cloud(width, poison):
    points = _clouds(1, 200, width)
    points[0, 5:9] = poison
    index = nearest_neighbours(points, 20)
    assert ((index >= 0) & (index < 200)).all()


def test_the_search_is_in_float32_under_autocast_and_has_no_gradient():
    points = (100 + _clouds(1, 300, 64)).requires_grad_()
    alone = nearest_neighbours(points, 20)
    with torch.autocast("cpu", torch.bfloat16):
        index = nearest_neighbours(points, 20)
    assert not index.requires_grad
    assert torch.equal(index, alone)


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="8 neighbours in clouds of 7 points"):
        nearest_neighbours(_clouds(1, 7, 3), 8)
