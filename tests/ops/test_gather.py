import pytest
import torch
from torch import Tensor

from picpoint.ops.gather import EdgeReduction, reduce_edges, reduce_edges_plain


def _problem(dtype: torch.dtype, width: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, random neighbours (some points have none, some many) and signs of both kinds."""
    generator = torch.Generator().manual_seed(0)
    near_own = torch.randn(3, 40, 2 * width, generator=generator, dtype=dtype)
    index = torch.randint(0, 30, (3, 40, 7), generator=generator)
    sign = torch.where(torch.rand(width, generator=generator) < 0.5, -1.0, 1.0)
    return near_own, index, sign


def _gradient(reduced: EdgeReduction, near_own: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = (reduced.extreme, reduced.total, reduced.squares)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in parts]
    return torch.autograd.grad(parts, near_own, upstream)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reduction_equals_the_plain_form_in_value_and_gradient(dtype):
    near_own, index, sign = _problem(dtype)
    near_own.requires_grad_()
    fast, plain = reduce_edges(near_own, index, sign), reduce_edges_plain(near_own, index, sign)
    for name in ("extreme", "total", "squares"):
        mine, oracle = getattr(fast, name), getattr(plain, name)
        assert mine.dtype == oracle.dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(mine, oracle, rtol=tolerance, atol=10 * tolerance)
    torch.testing.assert_close(
        _gradient(fast, near_own), _gradient(plain, near_own), rtol=tolerance, atol=30 * tolerance
    )


def test_each_part_has_a_gradient_of_its_own():
    near_own, index, sign = _problem(torch.float64)
    near_own.requires_grad_()
    for name in ("extreme", "total", "squares"):
        mine, oracle = (
            torch.autograd.grad(getattr(reduce(near_own, index, sign), name).sum(), near_own)[0]
            for reduce in (reduce_edges, reduce_edges_plain)
        )
        torch.testing.assert_close(mine, oracle)


def test_of_equal_edges_the_first_neighbour_takes_the_gradient():
    near_own = torch.ones(1, 5, 4, requires_grad=True)
    index = torch.tensor([3, 1, 2]).expand(1, 5, -1)
    reduce_edges(near_own, index, torch.tensor([1.0, -1.0])).extreme.sum().backward()
    assert near_own.grad is not None
    assert near_own.grad[0, :, 0].tolist() == [0, 0, 0, 5, 0]
    assert near_own.grad[0, :, 1].tolist() == [0, 0, 0, 5, 0]


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_variance_from_the_sums_survives_a_large_mean(offset):
    near_own, index, sign = _problem(torch.float32)
    near_own = near_own + offset
    near, own = near_own.double().chunk(2, dim=-1)
    edges = near[torch.arange(3)[:, None, None], index] + own[:, :, None]
    reduced = reduce_edges(near_own, index, sign)
    mean = reduced.total / 280
    variance = reduced.squares / 280 - mean.square()
    exact = edges.flatten(1, 2).var(dim=1, correction=0)
    # Edges of rows near 3,000 are rounded to 2^-12 = 0.0002 in float32; two-pass has the same.
    torch.testing.assert_close(variance, exact, rtol=1e-3, atol=0)


def test_a_nan_reaches_the_extreme_and_the_sums_of_its_neighbours_only():
    near_own, index, sign = _problem(torch.float32)
    near_own[1, 4, 2] = torch.nan
    reduced = reduce_edges(near_own, index, sign)
    touched = (index[1] == 4).any(dim=-1)
    assert touched.any()
    assert torch.equal(reduced.extreme[1, :, 2].isnan(), touched)
    assert reduced.extreme.isnan().sum() == touched.sum()
    assert reduced.total.isnan().nonzero().tolist() == [[1, 2]]


def test_more_neighbours_than_a_byte_can_name_are_refused():
    index = torch.zeros(1, 2, 257, dtype=torch.int64)
    with pytest.raises(ValueError, match="at most 256"):
        reduce_edges(torch.zeros(1, 2, 4), index, torch.ones(2))
