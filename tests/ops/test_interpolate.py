import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from picpoint.ops.interpolate import (
    interpolate,
    interpolate_plain,
    nearest_three,
    nearest_three_plain,
)


def _clouds(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 40, 3, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_three_centres_share_by_one_over_the_distance(dtype):
    points = _clouds(dtype)
    centres = points[:, :12]
    found, plain = nearest_three(points, centres), nearest_three_plain(points, centres)
    assert torch.equal(found.index, plain.index)
    torch.testing.assert_close(found.weight, plain.weight)
    distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.topk(3, largest=False)
    assert torch.equal(found.index[:, 12:], nearest.indices[:, 12:])
    shares = 1 / nearest.values
    expected = shares / shares.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(found.weight[:, 12:], expected[:, 12:])


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that an operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
        self.numbers = max(self.numbers, *(x.numel() for x in tensors))
        return given


def test_the_plain_form_keeps_all_distances_and_nothing_larger():
    """It is what runs on CUDA."""
    points = _clouds()
    with _Largest() as largest:
        nearest_three_plain(points, points[:, :12])
    assert largest.numbers == 2 * 40 * 12


def test_a_point_that_is_a_centre_keeps_its_features():
    points = _clouds()
    features = torch.rand(2, 12, 5, dtype=torch.float64)
    mixed = interpolate(features, nearest_three(points, points[:, :12]))
    torch.testing.assert_close(mixed[:, :12], features, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolation_equals_its_plain_form_in_value_and_gradient(dtype):
    points = _clouds(dtype)
    interpolation = nearest_three(points, points[:, :12])
    features = torch.rand(2, 12, 5, dtype=dtype, requires_grad=True)
    fast, plain = interpolate(features, interpolation), interpolate_plain(features, interpolation)
    torch.testing.assert_close(fast, plain)
    upstream = torch.rand(fast.shape, dtype=dtype)
    gradients = (torch.autograd.grad(x, features, upstream)[0] for x in (fast, plain))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("num_centres", [1, 2])
def test_of_fewer_than_three_centres_all_share(num_centres):
    points = _clouds()
    centres = points[:, :num_centres]
    features = torch.rand(2, num_centres, 5, dtype=torch.float64, requires_grad=True)
    distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    shares = 1 / (distance + 1e-8)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    expected = shares @ features
    upstream = torch.rand(expected.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(expected, features, upstream)
    for search, mix in ((nearest_three, interpolate), (nearest_three_plain, interpolate_plain)):
        mixed = mix(features, search(points, centres))
        torch.testing.assert_close(mixed, expected)
        told = torch.autograd.grad(mixed, features, upstream)[0]
        torch.testing.assert_close(told, gradient)
