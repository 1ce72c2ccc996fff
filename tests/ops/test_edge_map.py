import pytest
import torch
from torch import Tensor

from picpoint.ops import edge_blocks
from picpoint.ops.balls import Neighbours
from picpoint.ops.edge_map import Affine, MappedEdges, map_edges, map_edges_plain, variance_of_map


def _problem(dtype: torch.dtype) -> tuple[list[Tensor], Neighbours, Tensor]:
    """Rows and maps, neighbours with 1 to 6 points of their own, and signs of both kinds."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = [normal(4, 30, 8), normal(4, 20, 8), normal(2, 8), normal(2, 8), normal(12, 8)]
    distinct = torch.randint(1, 7, (4, 20), generator=generator)
    index = torch.randint(0, 30, (4, 20, 6), generator=generator)
    index = torch.where(torch.arange(6) < distinct[..., None], index, index[..., :1])
    sign = torch.where(torch.rand(12, generator=generator) < 0.5, -1.0, 1.0)
    return [x.requires_grad_() for x in tensors], Neighbours(index, distinct), sign


def _run(form, tensors, neighbours, sign, valid=None, slope=0.0) -> MappedEdges:
    near, own, scale, shift, weight = tensors
    return form(near, own, neighbours, Affine(scale, shift), weight, sign, slope, valid)


def _parts(reduced: MappedEdges, valid: Tensor | None) -> list[Tensor]:
    assert reduced.mean is not None
    assert reduced.covariance is not None
    rows = slice(None) if valid is None else valid
    return [reduced.extreme[rows], reduced.mean, reduced.covariance]


@pytest.mark.parametrize("valid", [None, [True, False, True, True], [False, False, True, False]])
@pytest.mark.parametrize("rows", [6, 40, 1024])
@pytest.mark.parametrize(("dtype", "slope"), [(torch.float32, 0.0), (torch.float64, 0.2)])
def test_mapped_edges_equal_the_plain_form_in_value_and_gradient(
    dtype, slope, rows, valid, monkeypatch
):
    monkeypatch.setattr(edge_blocks, "_BLOCK", rows * 2 * 8)
    valid = None if valid is None else torch.tensor(valid)
    tensors, neighbours, sign = _problem(dtype)
    fast, plain = (
        _parts(_run(form, tensors, neighbours, sign, valid, slope), valid)
        for form in (map_edges, map_edges_plain)
    )
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in plain]
    for mine, oracle in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=tolerance, atol=tolerance)
    gradients = (torch.autograd.grad(parts, tensors, upstream) for parts in (fast, plain))
    for mine, oracle in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=tolerance, atol=30 * tolerance)


def test_each_part_has_a_gradient_of_its_own():
    tensors, neighbours, sign = _problem(torch.float64)
    for part in range(3):
        fast, plain = (
            torch.autograd.grad(
                _parts(_run(form, tensors, neighbours, sign), None)[part].sum(),
                tensors,
                allow_unused=True,
                materialize_grads=True,
            )
            for form in (map_edges, map_edges_plain)
        )
        torch.testing.assert_close(fast, plain)


def test_moments_are_left_out_where_they_are_not_asked_for():
    (near, own, scale, shift, weight), neighbours, sign = _problem(torch.float64)
    affine = Affine(scale, shift)
    without = map_edges(near, own, neighbours, affine, weight, sign, 0.0, with_moments=False)
    assert without.mean is None
    assert without.covariance is None
    beside = map_edges(near, own, neighbours, affine, weight, sign, 0.0)
    torch.testing.assert_close(without.extreme, beside.extreme)
    gradients = (torch.autograd.grad(x.extreme.square().sum(), near)[0] for x in (without, beside))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("form", [map_edges, map_edges_plain])
def test_rows_may_lie_in_memory_in_any_order(form):
    (near, own, *rest), neighbours, sign = _problem(torch.float64)
    turned = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in (near, own)]
    index, distinct = (x.mT.contiguous().mT for x in (neighbours.index, neighbours.distinct))
    expected = _run(form, [near, own, *rest], neighbours, sign)
    found = _run(form, [*turned, *rest], Neighbours(index, distinct), sign)
    for mine, oracle in zip(_parts(found, None), _parts(expected, None), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-12, atol=1e-12)


def test_more_neighbours_than_a_slot_can_number_are_refused():
    (near, own, scale, shift, weight), neighbours, sign = _problem(torch.float64)
    many = Neighbours(neighbours.index.repeat(1, 1, 43)[..., :257], neighbours.distinct)
    with pytest.raises(ValueError, match="257 neighbours: at most 256"):
        map_edges(near, own, many, Affine(scale, shift), weight, sign, 0.0)


def test_the_covariance_survives_a_large_mean():
    tensors, neighbours, sign = _problem(torch.float32)
    with torch.no_grad():
        tensors[3] += 500  # what is added before the rectifier
    exact = [x.detach().double() for x in tensors]
    mine = _parts(_run(map_edges, tensors, neighbours, sign), None)[2]
    oracle = _parts(_run(map_edges_plain, exact, neighbours, sign), None)[2]
    # Hidden features near 500 are rounded to 2^-15 in float32.
    torch.testing.assert_close(mine.double(), oracle, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_variance_of_a_map_is_the_diagonal_of_its_covariance(dtype):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    covariance = (root @ root.mT).requires_grad_()
    weight = torch.randn(12, 8, generator=generator).to(dtype).requires_grad_()
    upstream = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    mine = variance_of_map(weight, covariance)
    oracle = (weight.double() @ covariance @ weight.double().T).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(mine, oracle)
    gradients = (torch.autograd.grad(x, (weight, covariance), upstream) for x in (mine, oracle))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=10 * tolerance)
