"""What do the edges from each centre to its neighbours come to? Without storing them.

An edge is near_j + own_i: a row of the neighbour j plus a row of the centre i. A tensor of centres
x neighbours x features is never built: the forward pass keeps which neighbour was the extreme, in
one byte, and the backward pass walks the edges again. Neighbours that only fill up a ball are
walked once and counted as often as they stand there.
"""

from dataclasses import dataclass
from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from picpoint.ops.backend import backend_of
from picpoint.ops.balls import Neighbours

_MAX_NEIGHBOURS = 256  # slots are kept as uint8


@dataclass(frozen=True, slots=True)
class EdgeSums:
    """Sums over the edges of each cloud; float64, as a variance is the difference of the two.

    Attributes:
        total: of the edges.
        squares: of their squares.
    """

    total: Float64[Tensor, "B C"]
    squares: Float64[Tensor, "B C"]


@dataclass(frozen=True, slots=True)
class EdgeReduction:
    """What the edges of each cloud come to.

    Attributes:
        extreme: the largest (or smallest) edge of each centre.
        sums: over all edges of a cloud.
    """

    extreme: Float[Tensor, "B M C"]
    sums: EdgeSums


def reduce_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    sign: Float[Tensor, " C"],
) -> EdgeReduction:
    """Reduce the edges near_j + own_i of each centre i to an extreme, and of each cloud to sums.

    Args:
        near: a row of each point; float32 or float64.
        own: a row of each centre.
        neighbours: which points are neighbours of each centre.
        sign: +1 where the largest edge is wanted, -1 where the smallest.

    Raises:
        ValueError: there are more than 256 neighbours.
    """
    check_count(neighbours)
    sign = sign.to(near.dtype)
    if backend_of(near) == "plain":
        return reduce_edges_plain(near, own, neighbours, sign)
    extreme, total, squares = _apply(near, own, neighbours, sign)
    return EdgeReduction(extreme, EdgeSums(total, squares))


def check_count(neighbours: Neighbours) -> None:
    """Check that a slot's number fits into the byte that is kept of it.

    Raises:
        ValueError: there are more than 256 neighbours.
    """
    if neighbours.index.shape[-1] > _MAX_NEIGHBOURS:
        raise ValueError(
            f"{neighbours.index.shape[-1]} neighbours: at most {_MAX_NEIGHBOURS} are supported"
        )


def sum_edges(
    near: Float[Tensor, "B N C"], own: Float[Tensor, "B M C"], neighbours: Neighbours
) -> EdgeSums:
    """Sum the edges near_j + own_i of each cloud, and their squares."""
    if backend_of(near) == "plain":
        return _sum_plain(edges_plain(near, own, neighbours))
    _, total, squares = _apply(near, own, neighbours, near.new_empty(0))
    return EdgeSums(total, squares)


def reduce_edges_plain(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    sign: Float[Tensor, " C"],
) -> EdgeReduction:
    """Do what `reduce_edges` does in plain torch, with all edges in memory."""
    edges = edges_plain(near, own, neighbours)
    slot = (edges * sign).argmax(dim=2, keepdim=True)
    return EdgeReduction(edges.gather(2, slot)[:, :, 0], _sum_plain(edges))


def edges_plain(
    near: Float[Tensor, "B N C"], own: Float[Tensor, "B M C"], neighbours: Neighbours
) -> Float[Tensor, "B M k C"]:
    """Build all edges."""
    # Not len(near), which a tracer takes for a constant.
    cloud = torch.arange(near.shape[0], device=near.device)[:, None, None]
    return near[cloud, neighbours.index] + own[:, :, None]


def _sum_plain(edges: Float[Tensor, "B M k C"]) -> EdgeSums:
    wide = edges.double()
    return EdgeSums(wide.sum(dim=(1, 2)), wide.square().sum(dim=(1, 2)))


def _apply(
    near: Tensor, own: Tensor, neighbours: Neighbours, sign: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (near, own, neighbours.index, neighbours.distinct, sign)
    if backend_of(near) == "triton":
        from picpoint.ops import triton_kernels

        return triton_kernels.reduce_edges(*arguments)
    return cast(tuple[Tensor, Tensor, Tensor], _ReduceEdges.apply(*arguments))


class _ReduceEdges(torch.autograd.Function):
    """The numba kernels as a torch function. An empty `sign` asks for no extreme."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        near: Tensor,
        own: Tensor,
        index: Tensor,
        distinct: Tensor,
        sign: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        near, own, index, distinct = (x.contiguous() for x in (near, own, index, distinct))
        extreme = near.new_empty(*own.shape[:2], len(sign))
        slot = torch.empty(extreme.shape, dtype=torch.uint8)
        total, squares = torch.zeros(2, len(near), near.shape[-1], dtype=torch.float64)
        _reduce(
            near.numpy(),
            own.numpy(),
            index.numpy(),
            distinct.numpy(),
            sign.numpy(),
            extreme.numpy(),
            slot.numpy(),
            total.numpy(),
            squares.numpy(),
        )
        ctx.save_for_backward(near, own, index, distinct, slot)
        ctx.set_materialize_grads(False)
        return extreme, total, squares

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_extreme: Tensor | None,
        grad_total: Tensor | None,
        grad_squares: Tensor | None,
    ) -> tuple[Tensor, Tensor, None, None, None]:
        near, own, index, distinct, slot = ctx.saved_tensors
        grad_near, grad_own = torch.zeros_like(near), torch.zeros_like(own)
        by_total, by_squares = (
            near.new_zeros(len(near), near.shape[-1]) if grad is None else grad.to(near)
            for grad in (grad_total, grad_squares)
        )
        grad_edge = near.new_zeros(slot.shape) if grad_extreme is None else grad_extreme
        _scatter(
            near.numpy(),
            own.numpy(),
            index.numpy(),
            distinct.numpy(),
            slot.numpy(),
            grad_edge.contiguous().numpy(),
            by_total.contiguous().numpy(),
            by_squares.contiguous().numpy(),
            grad_near.numpy(),
            grad_own.numpy(),
        )
        return grad_near, grad_own, None, None, None


@njit(cache=True, nogil=True)
@no_type_check
def _reduce(  # noqa: C901 - two loops over the edges, so that sums alone pay for no extreme
    near: np.ndarray,
    own: np.ndarray,
    index: np.ndarray,
    distinct: np.ndarray,
    sign: np.ndarray,
    extreme: np.ndarray,
    slot: np.ndarray,
    total: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Fill `extreme`, `slot` (B, M, C), `total`, `squares` (B, C). A NaN is passed on by all."""
    num_clouds, num_centres, k = index.shape
    width, wanted = near.shape[2], len(sign)
    best_slot = np.empty(width, dtype=np.int32)
    summed, squared, offset, shifted = np.empty((4, width), dtype=near.dtype)
    for cloud in range(num_clouds):
        # Sums are taken of edges less one of them, so that their squares do not drown the variance.
        for c in range(width):
            offset[c] = near[cloud, 0, c] + own[cloud, 0, c]
        for centre in range(num_centres):
            best, count = extreme[cloud, centre], distinct[cloud, centre]
            first = near[cloud, index[cloud, centre, 0]]
            repeats = near.dtype.type(k - count)
            for c in range(width):
                shifted[c] = own[cloud, centre, c] - offset[c]
                edge = first[c] + shifted[c]
                summed[c] = repeats * edge
                squared[c] = repeats * (edge * edge)
            if wanted:
                for c in range(width):
                    best[c] = -np.inf
                    best_slot[c] = 0
                for j in range(count):
                    other = near[cloud, index[cloud, centre, j]]
                    for c in range(width):
                        edge = other[c] + shifted[c]
                        summed[c] += edge
                        squared[c] += edge * edge
                        signed = edge * sign[c]
                        better = (signed > best[c]) | (signed != signed)
                        best[c] = signed if better else best[c]
                        best_slot[c] = np.int32(j) if better else best_slot[c]
                for c in range(width):
                    best[c] = best[c] * sign[c] + offset[c]
                    slot[cloud, centre, c] = best_slot[c]
            else:
                for j in range(count):
                    other = near[cloud, index[cloud, centre, j]]
                    for c in range(width):
                        edge = other[c] + shifted[c]
                        summed[c] += edge
                        squared[c] += edge * edge
            for c in range(width):
                total[cloud, c] += summed[c]
                squares[cloud, c] += squared[c]
        number = num_centres * k
        for c in range(width):
            away = np.float64(offset[c])
            squares[cloud, c] += 2 * away * total[cloud, c] + number * away * away
            total[cloud, c] += number * away


@njit(cache=True, nogil=True)
@no_type_check
def _scatter(
    near: np.ndarray,
    own: np.ndarray,
    index: np.ndarray,
    distinct: np.ndarray,
    slot: np.ndarray,
    grad_extreme: np.ndarray,
    grad_total: np.ndarray,
    grad_squares: np.ndarray,
    grad_near: np.ndarray,
    grad_own: np.ndarray,
) -> None:
    """Walk the edges again and add the gradient of each to its neighbour and its centre."""
    num_clouds, num_centres, k = index.shape
    width, wanted = near.shape[2], slot.shape[2]
    summed = np.empty(width, dtype=near.dtype)
    for cloud in range(num_clouds):
        constant, twice = grad_total[cloud], 2 * grad_squares[cloud]
        for centre in range(num_centres):
            here, count = own[cloud, centre], distinct[cloud, centre]
            for c in range(width):
                summed[c] = 0
            for j in range(count):
                source = index[cloud, centre, j]
                other, grad_other = near[cloud, source], grad_near[cloud, source]
                times = near.dtype.type(1 + k - count if j == 0 else 1)
                for c in range(width):
                    grad = times * (constant[c] + twice[c] * (other[c] + here[c]))
                    grad_other[c] += grad
                    summed[c] += grad
            for c in range(wanted):
                given = grad_extreme[cloud, centre, c]
                source = index[cloud, centre, slot[cloud, centre, c]]
                grad_near[cloud, source, c] += given
                summed[c] += given
            for c in range(width):
                grad_own[cloud, centre, c] = summed[c]
