import pytest
import torch

from picpoint.ops.sampling import farthest_points, farthest_points_plain, take_rows


def _clouds():
    return torch.rand(3, 50, 3, generator=torch.Generator().manual_seed(0))


def test_each_point_is_the_farthest_from_all_before_it():
    points = _clouds()
    order = farthest_points(points, 20)
    for cloud, rows in zip(points, order, strict=True):
        assert rows[0] == (cloud - cloud.mean(dim=0)).norm(dim=-1).argmax()
        for step in range(1, 20):
            distance = torch.cdist(cloud, cloud[rows[:step]]).amin(dim=1)
            torch.testing.assert_close(distance[rows[step]], distance.max())


def test_the_kernel_chooses_as_the_plain_form_does():
    points = _clouds()
    order = farthest_points(points, 50)
    assert torch.equal(order, farthest_points_plain(points, 50, order[:, 0]))


def test_shuffled_points_are_chosen_alike():
    points = _clouds()
    shuffled = points[:, torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    chosen = (take_rows(x, farthest_points(x, 30)) for x in (points, shuffled))
    assert torch.equal(*chosen)


@pytest.mark.parametrize("count", [0, 51])
def test_more_points_than_there_are_cannot_be_chosen(count):
    with pytest.raises(ValueError, match="50 points"):
        farthest_points(_clouds(), count)
