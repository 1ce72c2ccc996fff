"""Triton's kernels do what the plain forms do; in Triton's interpreter, which needs no GPU."""

import os
from contextlib import nullcontext

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="triton is not installed (it comes with torch for CUDA)")

from picpoint.ops import triton_kernels
from picpoint.ops.balls import Neighbours, points_in_balls_plain
from picpoint.ops.gather import reduce_edges_plain
from picpoint.ops.sampling import farthest_points_plain

pytestmark = pytest.mark.filterwarnings("ignore")


def _clouds():
    return torch.rand(2, 140, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("radius", "k"), [(0.3, 8), (3.0, 140)])
def test_balls_are_those_of_the_plain_form(radius, k):
    points = _clouds()
    centres = torch.cat([points[:, :6], torch.full((2, 1, 3), 9.0)], dim=1)
    index, distinct = triton_kernels.search_balls(points, centres, radius**2, k)
    plain = points_in_balls_plain(points, centres, radius, k)
    assert torch.equal(index, plain.index)
    assert torch.equal(distinct, plain.distinct)


def test_farthest_points_are_those_of_the_plain_form():
    points, start = _clouds(), torch.tensor([3, 139])
    order = triton_kernels.order_farthest(points, 20, start)
    assert torch.equal(order, farthest_points_plain(points, 20, start))


@pytest.mark.parametrize("wanted", [True, False])
def test_reduced_edges_and_their_gradients_are_those_of_the_plain_form(wanted):
    generator = torch.Generator().manual_seed(0)
    width = 150  # more than a block of channels
    near = torch.randn(2, 40, width, generator=generator, dtype=torch.float64, requires_grad=True)
    own = torch.randn(2, 5, width, generator=generator, dtype=torch.float64, requires_grad=True)
    distinct = torch.randint(1, 8, (2, 5), generator=generator)
    index = torch.randint(0, 40, (2, 5, 7), generator=generator)
    index = torch.where(torch.arange(7) < distinct[..., None], index, index[..., :1])
    neighbours = Neighbours(index, distinct)
    sign = torch.where(torch.rand(width, generator=generator) < 0.5, -1.0, 1.0).double()
    plain = reduce_edges_plain(near, own, neighbours, sign)
    oracle = [plain.extreme, plain.sums.total, plain.sums.squares][0 if wanted else 1 :]
    fast = triton_kernels.reduce_edges(near, own, index, distinct, sign if wanted else sign[:0])[
        0 if wanted else 1 :
    ]
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in oracle]
    for mine, theirs in zip(fast, oracle, strict=True):
        torch.testing.assert_close(mine, theirs)
    gradients = (torch.autograd.grad(parts, (near, own), upstream) for parts in (fast, oracle))
    torch.testing.assert_close(*gradients)


def test_programs_are_launched_on_the_gpu_of_their_tensors(monkeypatch):
    """Triton launches on the current GPU. Without two, it is told that each is asked for."""
    asked = []

    def device_of(tensor):
        asked.append(tensor)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    points = _clouds()
    index, distinct = triton_kernels.search_balls(points, points[:, :4], 0.1, 5)
    triton_kernels.order_farthest(points, 2, torch.tensor([0, 0]))
    rows = points.clone().requires_grad_()
    reduced = triton_kernels.reduce_edges(rows, points[:, :4], index, distinct, torch.ones(3))
    assert len(asked) == 3
    reduced[0].sum().backward()
    assert len(asked) == 4
