"""What do the edges from each point to its neighbours come to? Without storing them.

An edge is near_j + own_i: a row of the neighbour j plus a row of the centre i. A tensor of centres
x neighbours x features is never built: the forward pass keeps which neighbour was the extreme, in
one byte, and the backward pass walks the edges again.
"""

from dataclasses import dataclass
from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

_MAX_NEIGHBOURS = 256  # slots are kept as uint8


@dataclass(frozen=True, slots=True)
class EdgeReduction:
    """What the edges of each cloud come to.

    Attributes:
        extreme: the largest (or smallest) edge of each centre.
        total: sum of all edges of a cloud; float64, as a variance is the difference of the two.
        squares: sum of their squares.
    """

    extreme: Float[Tensor, "B N C"]
    total: Float64[Tensor, "B C"]
    squares: Float64[Tensor, "B C"]


def reduce_edges(
    near_own: Float[Tensor, "B N two_C"], index: Int64[Tensor, "B N k"], sign: Float[Tensor, " C"]
) -> EdgeReduction:
    """Reduce the edges near_j + own_i of each centre i to an extreme, and of each cloud to sums.

    Args:
        near_own: near_j and own_j of each point, side by side; float32 or float64.
        index: the neighbours of each centre.
        sign: +1 where the largest edge is wanted, -1 where the smallest.

    Raises:
        ValueError: there are more than 256 neighbours.
    """
    if index.shape[-1] > _MAX_NEIGHBOURS:
        raise ValueError(f"{index.shape[-1]} neighbours: at most {_MAX_NEIGHBOURS} are supported")
    if near_own.device.type == "cpu":
        reduced = _ReduceEdges.apply(near_own, index, sign.to(near_own.dtype))
        return EdgeReduction(*cast(tuple[Tensor, Tensor, Tensor], reduced))
    return reduce_edges_plain(near_own, index, sign.to(near_own.dtype))


def reduce_edges_plain(
    near_own: Float[Tensor, "B N two_C"], index: Int64[Tensor, "B N k"], sign: Float[Tensor, " C"]
) -> EdgeReduction:
    """Do what `reduce_edges` does in plain torch, with all edges in memory."""
    near, own = near_own.chunk(2, dim=-1)
    cloud = torch.arange(len(near), device=near.device)[:, None, None]
    edges = near[cloud, index] + own[:, :, None]
    slot = (edges * sign).argmax(dim=2, keepdim=True)
    wide = edges.double()
    return EdgeReduction(
        extreme=edges.gather(2, slot)[:, :, 0],
        total=wide.sum(dim=(1, 2)),
        squares=wide.square().sum(dim=(1, 2)),
    )


class _ReduceEdges(torch.autograd.Function):
    """The numba kernels as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        near_own: Tensor,
        index: Tensor,
        sign: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        near_own, index = near_own.contiguous(), index.contiguous()
        num_clouds, num_points, width = *near_own.shape[:2], len(sign)
        extreme = near_own.new_empty(num_clouds, num_points, width)
        slot = torch.empty(extreme.shape, dtype=torch.uint8)
        total, squares = torch.zeros(2, num_clouds, width, dtype=torch.float64)
        _reduce(
            near_own.numpy(),
            index.numpy(),
            sign.numpy(),
            extreme.numpy(),
            slot.numpy(),
            total.numpy(),
            squares.numpy(),
        )
        ctx.save_for_backward(near_own, index, slot)
        ctx.set_materialize_grads(False)
        return extreme, total, squares

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_extreme: Tensor | None,
        grad_total: Tensor | None,
        grad_squares: Tensor | None,
    ) -> tuple[Tensor, None, None]:
        near_own, index, slot = ctx.saved_tensors
        by_total, by_squares = (
            near_own.new_zeros(len(slot), slot.shape[-1]) if grad is None else grad.to(near_own)
            for grad in (grad_total, grad_squares)
        )
        grad_edge = near_own.new_zeros(slot.shape) if grad_extreme is None else grad_extreme
        grad_near_own = torch.zeros_like(near_own)
        _scatter(
            near_own.numpy(),
            index.numpy(),
            slot.numpy(),
            grad_edge.contiguous().numpy(),
            by_total.contiguous().numpy(),
            by_squares.contiguous().numpy(),
            grad_near_own.numpy(),
        )
        return grad_near_own, None, None


@njit(cache=True, nogil=True)
@no_type_check
def _reduce(
    near_own: np.ndarray,
    index: np.ndarray,
    sign: np.ndarray,
    extreme: np.ndarray,
    slot: np.ndarray,
    total: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Fill `extreme`, `slot` (B, N, C), `total`, `squares` (B, C). A NaN is passed on by all."""
    num_clouds, num_points, k = index.shape
    width = len(sign)
    best_slot = np.empty(width, dtype=np.int32)
    summed, squared, offset, own = np.empty((4, width), dtype=near_own.dtype)
    for cloud in range(num_clouds):
        # Sums are taken of edges less one of them, so that their squares do not drown the variance.
        for c in range(width):
            offset[c] = near_own[cloud, 0, c] + near_own[cloud, 0, width + c]
        for centre in range(num_points):
            best = extreme[cloud, centre]
            for c in range(width):
                own[c] = near_own[cloud, centre, width + c] - offset[c]
                best[c] = -np.inf
                summed[c] = 0
                squared[c] = 0
                best_slot[c] = 0
            for j in range(k):
                near = near_own[cloud, index[cloud, centre, j], :width]
                for c in range(width):
                    edge = near[c] + own[c]
                    summed[c] += edge
                    squared[c] += edge * edge
                    signed = edge * sign[c]
                    better = (signed > best[c]) | (signed != signed)
                    best[c] = signed if better else best[c]
                    best_slot[c] = np.int32(j) if better else best_slot[c]
            for c in range(width):
                best[c] = best[c] * sign[c] + offset[c]
                slot[cloud, centre, c] = best_slot[c]
                total[cloud, c] += summed[c]
                squares[cloud, c] += squared[c]
        count = num_points * k
        for c in range(width):
            away = np.float64(offset[c])
            squares[cloud, c] += 2 * away * total[cloud, c] + count * away * away
            total[cloud, c] += count * away


@njit(cache=True, nogil=True)
@no_type_check
def _scatter(
    near_own: np.ndarray,
    index: np.ndarray,
    slot: np.ndarray,
    grad_extreme: np.ndarray,
    grad_total: np.ndarray,
    grad_squares: np.ndarray,
    grad_near_own: np.ndarray,
) -> None:
    """Walk the edges again and add the gradient of each to its neighbour and its centre."""
    num_clouds, num_points, k = index.shape
    width = slot.shape[2]
    summed = np.empty(width, dtype=near_own.dtype)
    for cloud in range(num_clouds):
        constant, twice = grad_total[cloud], 2 * grad_squares[cloud]
        for centre in range(num_points):
            own = near_own[cloud, centre, width:]
            for c in range(width):
                summed[c] = 0
            for j in range(k):
                source = index[cloud, centre, j]
                near = near_own[cloud, source, :width]
                grad_near = grad_near_own[cloud, source, :width]
                for c in range(width):
                    grad = constant[c] + twice[c] * (near[c] + own[c])
                    grad_near[c] += grad
                    summed[c] += grad
            for c in range(width):
                given = grad_extreme[cloud, centre, c]
                source = index[cloud, centre, slot[cloud, centre, c]]
                grad_near_own[cloud, source, c] += given
                grad_near_own[cloud, centre, width + c] = summed[c] + given
