import pytest
import torch

from picpoint.ops.balls import points_in_balls, points_in_balls_plain


def _clouds(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 70, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("radius", "k"), [(0.2, 8), (0.5, 4), (3.0, 70), (0.1, 100)])
def test_balls_hold_the_first_points_inside_and_are_filled_with_the_first(radius, k, dtype):
    points = _clouds(dtype)
    centres = points[:, :20]
    found = points_in_balls(points, centres, radius, k)
    for cloud, centre in [(0, 0), (1, 7), (2, 19)]:
        distance = (points[cloud] - centres[cloud, centre]).norm(dim=-1)
        inside = (distance < radius).nonzero()[:, 0].tolist()[:k]
        filled = inside + [inside[0]] * (k - len(inside))
        assert found.index[cloud, centre].tolist() == filled
        assert found.distinct[cloud, centre] == len(inside)
    plain = points_in_balls_plain(points, centres, radius, k)
    assert torch.equal(found.index, plain.index)
    assert torch.equal(found.distinct, plain.distinct)


@pytest.mark.parametrize("search", [points_in_balls, points_in_balls_plain])
@pytest.mark.parametrize("off", [50.0, float("nan")])
def test_a_ball_without_a_point_is_given_the_first_row(search, off):
    points = _clouds()
    found = search(points, torch.full((3, 2, 3), off), 0.1, 5)
    assert (found.index == 0).all()
    assert (found.distinct == 1).all()


def test_an_impossible_ball_is_refused():
    points = _clouds()
    with pytest.raises(ValueError, match="must be above 0"):
        points_in_balls(points, points, 0.0, 5)
    with pytest.raises(ValueError, match="must be above 0"):
        points_in_balls(points, points, 0.1, 0)
