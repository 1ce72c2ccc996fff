"""What do all edges around a centre say together? Normalised, rectified, and the largest of them.

As a rectifier rises and a scale only has a sign, the largest edge may be found before either is
applied (the smallest, where the scale is negative); BatchNorm's statistics follow from sums.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from picpoint.ops.balls import Neighbours
from picpoint.ops.edge_map import Affine, map_edges, variance_of_map
from picpoint.ops.gather import edges_plain, reduce_edges, sum_edges
from picpoint.ops.ghost_norm import GhostBatchNorm, Moments
from picpoint.ops.normalise import scale_and_shift


def pool_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    norm: GhostBatchNorm,
    valid: Bool[Tensor, " B"] | None,
    slope: float,
) -> Float[Tensor, "B M C"]:
    """Normalise and rectify all edges near_j + own_i and take each centre's largest.

    Args:
        near: a row of each point.
        own: a row of each centre.
        neighbours: which points are neighbours of each centre.
        norm: BatchNorm over all edges.
        valid: False for clouds that enter no statistic.
        slope: of the LeakyReLU below zero; 0 is ReLU.
    """
    edges = reduce_edges(near, own, neighbours, torch.where(norm.weight < 0, -1.0, 1.0))
    entries = neighbours.index.shape[1] * neighbours.index.shape[2]
    sums = edges.sums
    affine = Affine(*norm.affine_of_clouds(sums.total, sums.squares, entries, valid))
    return apply_affine(edges.extreme, affine, slope)


def affine_of_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    norm: GhostBatchNorm,
    valid: Bool[Tensor, " B"] | None,
) -> Affine:
    """Give what normalises the edges near_j + own_i."""
    if not norm.training:
        scale, shift = norm.running_affine()
        return Affine(scale[None], shift[None])
    sums = sum_edges(near, own, neighbours)
    entries = neighbours.index.shape[1] * neighbours.index.shape[2]
    return Affine(*norm.affine_of_clouds(sums.total, sums.squares, entries, valid))


def pool_mapped_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    norm: GhostBatchNorm,
    valid: Bool[Tensor, " B"] | None,
    inner_slope: float,
    slope: float,
) -> Float[Tensor, "B M D"]:
    """Map the rectified edges, normalise and rectify the result, take each centre's largest.

    Args:
        near: a row of each point.
        own: a row of each centre.
        neighbours: which points are neighbours of each centre.
        affine: what normalises the edges.
        weight: the map.
        norm: BatchNorm over all mapped edges.
        valid: False for clouds that enter no statistic.
        inner_slope: of the LeakyReLU between the two maps.
        slope: of the one after the second; 1 leaves it out.
    """
    sign = torch.where(norm.weight < 0, -1.0, 1.0)
    mapped = map_edges(
        near, own, neighbours, affine, weight, sign, inner_slope, valid, with_moments=norm.training
    )
    if mapped.mean is None or mapped.covariance is None:
        scale, shift = norm.running_affine()
        return apply_affine(mapped.extreme, Affine(scale[None], shift[None]), slope)
    with torch.autocast(near.device.type, enabled=False):
        mean = mapped.mean @ weight.double().T
        variance = variance_of_map(weight, mapped.covariance).clamp(min=0)
    count = _count_entries(neighbours, len(mean), valid).to(mean)
    affine = Affine(*norm.affine(Moments(mean, variance, count)))
    return apply_affine(mapped.extreme, affine, slope)


def map_each_edge(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    linear: nn.Linear,
    slope: float,
) -> tuple[Float[Tensor, "B E D"], Float[Tensor, "B M D"], Neighbours]:
    """Rectify and map every edge, and give the results as points of their own around each centre.

    They are kept, so this is for the middle of three maps only. They are of the kind that `near`
    is, also under autocast, for statistics are taken of them.
    """
    num_clouds, num_centres, k = neighbours.index.shape
    edges = edges_plain(near, own, neighbours)
    hidden = apply_affine(edges.flatten(1, 2), affine, slope)
    mapped = linear(hidden).to(near)
    slot = torch.arange(k, device=near.device).expand(num_centres, k)
    starts = torch.arange(num_centres, device=near.device)[:, None] * k
    distinct = neighbours.distinct
    index = starts + torch.where(slot < distinct[..., None], slot, 0)
    return (
        mapped,
        mapped.new_zeros(num_clouds, num_centres, mapped.shape[-1]),
        Neighbours(index, distinct),
    )


def _count_entries(
    neighbours: Neighbours, num_ghosts: int, valid: Bool[Tensor, " B"] | None
) -> Float[Tensor, " g"]:
    """Count the edges of each ghost's valid clouds."""
    num_clouds, num_centres, k = neighbours.index.shape
    if valid is None:
        valid = torch.ones(num_clouds, dtype=torch.bool, device=neighbours.index.device)
    return valid.view(num_ghosts, -1).sum(dim=1).double() * (num_centres * k)


def apply_affine(x: Float[Tensor, "B M C"], affine: Affine, slope: float) -> Float[Tensor, "B M C"]:
    """Scale and shift each ghost's part of `x`, and rectify it."""
    ghosts = x.reshape(len(affine.scale), -1, x.shape[-1])
    y = scale_and_shift(ghosts, affine.scale.to(x), affine.shift.to(x), slope)
    return y.view(x.shape)
