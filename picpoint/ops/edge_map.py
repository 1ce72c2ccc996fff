"""What does a linear map of every rectified edge come to at each centre? Without storing the edges.

    edge     e_ij = near_j + own_i
    hidden   h_ij = leaky_relu(scale * e_ij + shift)
    mapped   z_ij = W h_ij              -> the largest (or smallest) z_ij of each centre i

This is what is left of a neighbourhood layer after its first map has been taken to the points, and
unlike the first, the map W has to be applied to every edge. So the edges are built some hundred at
a time, in the cache, and built again in the backward pass; neighbours that only fill up a ball are
built once. BatchNorm of z needs no z: its mean is W m and its variance the diagonal of W S W^T,
with m and S the mean and the covariance of the hidden features.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from picpoint.ops.backend import backend_of
from picpoint.ops.balls import Neighbours
from picpoint.ops.edge_blocks import EdgeBlocks
from picpoint.ops.gather import check_count, edges_plain


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and shift of each ghost (g of them) and channel."""

    scale: Float[Tensor, "g C"]
    shift: Float[Tensor, "g C"]


@dataclass(frozen=True, slots=True)
class MappedEdges:
    """What the mapped edges come to.

    Attributes:
        extreme: the largest (or smallest) of each centre.
        mean: of the hidden features of each ghost; None where it was not asked for. Both moments
            are float64: what is made of them may be a small difference.
        covariance: of the same, biased.
    """

    extreme: Float[Tensor, "B M D"]
    mean: Float64[Tensor, "g C"] | None
    covariance: Float64[Tensor, "g C C"] | None


def map_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    sign: Float[Tensor, " D"],
    slope: float,
    valid: Bool[Tensor, " B"] | None = None,
    with_moments: bool = True,
) -> MappedEdges:
    """Map the rectified edges of each centre, and reduce them to an extreme and to moments.

    Args:
        near: a row of each point; float32 or float64.
        own: a row of each centre.
        neighbours: which points are neighbours of each centre; at most 256.
        affine: what normalises the edges of each ghost.
        weight: W.
        sign: +1 where the largest is wanted, -1 where the smallest.
        slope: of the rectifier below zero; 0 is ReLU.
        valid: False for clouds that enter no moment; their extremes mean nothing.
        with_moments: whether mean and covariance are wanted.

    Raises:
        ValueError: there are more than 256 neighbours.
    """
    check_count(neighbours)
    affine = Affine(affine.scale.to(near.dtype), affine.shift.to(near.dtype))
    weight, sign = weight.to(near.dtype), sign.to(near.dtype)
    # Edges are small differences of large numbers, so this stays float32 also under autocast.
    with torch.autocast(near.device.type, enabled=False):
        if backend_of(near) != "numba":
            return map_edges_plain(
                near, own, neighbours, affine, weight, sign, slope, valid, with_moments
            )
        indices = (neighbours.index, neighbours.distinct, valid)
        reduced = _MapEdges.apply(
            near, own, affine.scale, affine.shift, weight, sign, *indices, slope, with_moments
        )
    return MappedEdges(*cast(tuple[Tensor, Tensor | None, Tensor | None], reduced))


def map_edges_plain(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    sign: Float[Tensor, " D"],
    slope: float,
    valid: Bool[Tensor, " B"] | None = None,
    with_moments: bool = True,
) -> MappedEdges:
    """Do what `map_edges` does in plain torch, with all edges in memory."""
    edges = edges_plain(near, own, neighbours)
    ghosts = edges.reshape(len(affine.scale), -1, near.shape[-1])
    hidden = functional.leaky_relu(ghosts * affine.scale[:, None] + affine.shift[:, None], slope)
    mapped = (hidden @ weight.T).view(*edges.shape[:-1], -1)
    slot = (mapped * sign.to(mapped)).argmax(dim=2, keepdim=True)
    extreme = mapped.gather(2, slot)[:, :, 0]
    if not with_moments:
        return MappedEdges(extreme, None, None)
    counted = torch.ones(edges.shape[:-1], dtype=hidden.dtype, device=hidden.device)
    if valid is not None:
        counted = counted * valid[:, None, None]
    share = counted.view(hidden.shape[:-1])
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.einsum("gn,gnc->gc", share, hidden)
    away = hidden - mean[:, None]
    covariance = torch.einsum("gn,gnc,gnd->gcd", share, away, away)
    return MappedEdges(extreme, mean.double(), covariance.double())


def variance_of_map(
    weight: Float[Tensor, "D C"], covariance: Float64[Tensor, "g C C"]
) -> Float64[Tensor, "g D"]:
    """Give the variance of W h from the covariance S of h: the diagonal of W S W^T."""
    return cast(Tensor, _VarianceOfMap.apply(weight, covariance))


class _VarianceOfMap(torch.autograd.Function):
    """One product of float64 forward; backward one in the weight's own precision, not two."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        weight: Tensor,
        covariance: Tensor,
    ) -> Tensor:
        wide = weight.double()
        mapped = wide @ covariance
        ctx.save_for_backward(weight, mapped.to(weight.dtype))
        return (mapped * wide).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, Tensor]:
        weight, mapped = ctx.saved_tensors
        grad = grad.to(weight.dtype)[..., None]
        grad_weight = 2 * (grad * mapped).sum(dim=0)
        return grad_weight, (weight.T @ (grad * weight)).double()


class _MapEdges(torch.autograd.Function):
    """The blocks of edges as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        near: Tensor,
        own: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        sign: Tensor,
        index: Tensor,
        distinct: Tensor,
        valid: Tensor | None,
        slope: float,
        with_moments: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        near, own, scale, shift, weight = (
            x.contiguous() for x in (near, own, scale, shift, weight)
        )
        edges = EdgeBlocks(near, own, scale, shift, index, distinct, valid, slope)
        ctx.slope = slope
        extreme = near.new_zeros(*own.shape[:2], len(weight))
        slot = torch.zeros(extreme.shape, dtype=torch.uint8)
        mean, covariance = edges.reduce(weight, sign, extreme, slot, with_moments)
        ctx.save_for_backward(near, own, scale, shift, weight, index, distinct, valid, slot, mean)
        ctx.set_materialize_grads(False)
        return extreme, mean, covariance

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_extreme: Tensor | None,
        grad_mean: Tensor | None,
        grad_covariance: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        near, own, scale, shift, weight, index, distinct, valid, slot, mean = ctx.saved_tensors
        mean = scale.new_zeros(scale.shape, dtype=torch.float64) if mean is None else mean
        edges = EdgeBlocks(near, own, scale, shift, index, distinct, valid, ctx.slope)
        gradients = edges.spread(
            weight,
            slot,
            mean,
            *(
                mean.new_zeros(shape) if grad is None else grad
                for grad, shape in (
                    (grad_extreme, slot.shape),
                    (grad_mean, mean.shape),
                    (grad_covariance, (*mean.shape, mean.shape[-1])),
                )
            ),
        )
        return *gradients, None, None, None, None, None, None
