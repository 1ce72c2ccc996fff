import pytest
import torch
from torch import Tensor

from picpoint.ops.balls import Neighbours, all_distinct
from picpoint.ops.gather import (
    EdgeReduction,
    edges_plain,
    reduce_edges,
    reduce_edges_plain,
    sum_edges,
)


def _problem(
    dtype: torch.dtype, width: int = 12, filled: bool = False
) -> tuple[Tensor, Tensor, Neighbours, Tensor]:
    """Rows, random neighbours (some points have none, some many) and signs of both kinds."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(3, 40, width, generator=generator, dtype=dtype)
    own = torch.randn(3, 25, width, generator=generator, dtype=dtype)
    index = torch.randint(0, 30, (3, 25, 7), generator=generator)
    sign = torch.where(torch.rand(width, generator=generator) < 0.5, -1.0, 1.0)
    if not filled:
        return near, own, all_distinct(index), sign
    distinct = torch.randint(1, 8, (3, 25), generator=generator)
    index = torch.where(torch.arange(7) < distinct[..., None], index, index[..., :1])
    return near, own, Neighbours(index, distinct), sign


def _parts(reduced: EdgeReduction) -> tuple[Tensor, Tensor, Tensor]:
    return reduced.extreme, reduced.sums.total, reduced.sums.squares


def _gradients(reduced: EdgeReduction, *rows: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    parts = _parts(reduced)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in parts]
    return torch.autograd.grad(parts, rows, upstream)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reduction_equals_the_plain_form_in_value_and_gradient(dtype, filled):
    near, own, neighbours, sign = _problem(dtype, filled=filled)
    near.requires_grad_()
    own.requires_grad_()
    fast, plain = (
        reduce(near, own, neighbours, sign) for reduce in (reduce_edges, reduce_edges_plain)
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for mine, oracle in zip(_parts(fast), _parts(plain), strict=True):
        assert mine.dtype == oracle.dtype
        torch.testing.assert_close(mine, oracle, rtol=tolerance, atol=10 * tolerance)
    pairs = zip(_gradients(fast, near, own), _gradients(plain, near, own), strict=True)
    for mine, oracle in pairs:
        torch.testing.assert_close(mine, oracle, rtol=tolerance, atol=30 * tolerance)


def test_each_part_has_a_gradient_of_its_own():
    near, own, neighbours, sign = _problem(torch.float64, filled=True)
    near.requires_grad_()
    own.requires_grad_()
    for part in range(3):
        fast, plain = (
            torch.autograd.grad(
                _parts(reduce(near, own, neighbours, sign))[part].sum(), (near, own)
            )
            for reduce in (reduce_edges, reduce_edges_plain)
        )
        torch.testing.assert_close(fast, plain)


def test_sums_alone_are_those_of_the_reduction():
    near, own, neighbours, sign = _problem(torch.float64, filled=True)
    near.requires_grad_()
    alone, beside = sum_edges(near, own, neighbours), reduce_edges(near, own, neighbours, sign).sums
    for mine, oracle in ((alone.total, beside.total), (alone.squares, beside.squares)):
        torch.testing.assert_close(mine, oracle)
        gradients = (
            torch.autograd.grad(sums.square().sum(), near, retain_graph=True)[0]
            for sums in (mine, oracle)
        )
        torch.testing.assert_close(*gradients)


def test_of_equal_edges_the_first_neighbour_takes_the_gradient():
    near = torch.ones(1, 5, 2, requires_grad=True)
    neighbours = all_distinct(torch.tensor([3, 1, 2]).expand(1, 5, -1))
    edges = reduce_edges(near, torch.zeros(1, 5, 2), neighbours, torch.tensor([1.0, -1.0]))
    edges.extreme.sum().backward()
    assert near.grad is not None
    assert near.grad[0, :, 0].tolist() == [0, 0, 0, 5, 0]
    assert near.grad[0, :, 1].tolist() == [0, 0, 0, 5, 0]


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_variance_from_the_sums_survives_a_large_mean(offset):
    near, own, neighbours, sign = _problem(torch.float32)
    near = near + offset
    edges = edges_plain(near.double(), own.double(), neighbours)
    sums = reduce_edges(near, own, neighbours, sign).sums
    mean = sums.total / 175
    variance = sums.squares / 175 - mean.square()
    exact = edges.flatten(1, 2).var(dim=1, correction=0)
    # Edges of rows near 3,000 are rounded to 2^-12 = 0.0002 in float32; two-pass has the same.
    torch.testing.assert_close(variance, exact, rtol=1e-3, atol=0)


def test_a_nan_reaches_the_extreme_and_the_sums_of_its_neighbours_only():
    near, own, neighbours, sign = _problem(torch.float32)
    near[1, 4, 2] = torch.nan
    reduced = reduce_edges(near, own, neighbours, sign)
    touched = (neighbours.index[1] == 4).any(dim=-1)
    assert touched.any()
    assert torch.equal(reduced.extreme[1, :, 2].isnan(), touched)
    assert reduced.extreme.isnan().sum() == touched.sum()
    assert reduced.sums.total.isnan().nonzero().tolist() == [[1, 2]]


def test_more_neighbours_than_a_byte_can_name_are_refused():
    neighbours = all_distinct(torch.zeros(1, 2, 257, dtype=torch.int64))
    with pytest.raises(ValueError, match="at most 256"):
        reduce_edges(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), neighbours, torch.ones(2))
