"""How does PointNeXt gather the neighbourhood of a point? Linear maps of edges, then their maximum.

An edge joins a centre i to a point j in the ball around it: [(x_j - x_i) / r, f_j]. Its first
linear map is taken once per point instead of once per edge:

    W [(x_j - x_i) / r, f_j] = W [x_j / r, f_j] - W_x x_i / r = near_j + own_i

A second map has to wait for BatchNorm and ReLU of the first; it is fused (ops/edge_map.py).
Centres are the leading points: a cloud in farthest-point order is sampled by cutting it.

Source: PointNeXt (arXiv:2206.04670), section 3.2.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from picpoint.ops.balls import Neighbours, points_in_balls
from picpoint.ops.edge_map import Affine, map_edges, variance_of_map
from picpoint.ops.gather import reduce_edges, sum_edges
from picpoint.ops.ghost_norm import GhostBatchNorm, Moments
from picpoint.ops.normalise import scale_and_shift


@dataclass(frozen=True, slots=True)
class Ball:
    """A neighbourhood.

    Attributes:
        radius: in units of the cloud.
        num_neighbours: most points in a ball; the first ones in the cloud's order.
    """

    radius: float
    num_neighbours: int

    def around(self, centres: Float[Tensor, "B M 3"], points: Float[Tensor, "B N 3"]) -> Neighbours:
        """Find the points in the ball around each centre."""
        return points_in_balls(points, centres, self.radius, self.num_neighbours)


class EdgeLinear(nn.Module):
    """The first linear map of edges, without bias; its weight acts on [(x_j - x_i) / r, f_j]."""

    def __init__(self, width_in: int, width_out: int, radius: float) -> None:
        super().__init__()
        self.linear = nn.Linear(3 + width_in, width_out, bias=False)
        self.radius = radius

    def forward(
        self,
        centres: Float[Tensor, "B M 3"],
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B M D"]]:
        """Give near_j of each point and own_i of each centre, at least float32."""
        # near and own partly cancel in an edge, so they stay float32 also under autocast.
        with torch.autocast(points.device.type, enabled=False):
            wide = torch.promote_types(features.dtype, torch.float32)
            rows = torch.cat([points.to(wide) / self.radius, features.to(wide)], dim=-1)
            near = self.linear(rows)
            own = functional.linear(centres.to(wide) / -self.radius, self.linear.weight[:, :3])
        return near, own


class SetAbstraction(nn.Module):
    """Describe the leading points of each cloud by their neighbourhoods.

    Args:
        width_in: features of a point.
        width_out: features of a centre.
        num_layers: linear maps of an edge, each with BatchNorm and ReLU, the inner ones half as
            wide as the last. With more than one, the centre's own features are added before the
            last ReLU, through a linear map.
        ball: the neighbourhood.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(
        self, width_in: int, width_out: int, num_layers: int, ball: Ball, ghost_batch: int
    ) -> None:
        super().__init__()
        self.ball = ball
        inner = width_out if num_layers == 1 else width_out // 2
        self.edge_linear = EdgeLinear(width_in, inner, ball.radius)
        self.edge_norm = GhostBatchNorm(inner, ghost_batch)
        widths = [inner] * (num_layers - 1) + [width_out]
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(width, ghost_batch) for width in widths[1:])
        self.skip = nn.Linear(width_in, width_out) if num_layers > 1 else None

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
        num_centres: int,
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Describe the first `num_centres` points."""
        centres = points[:, :num_centres]
        neighbours = self.ball.around(centres, points)
        near, own = self.edge_linear(centres, points, features)
        if self.skip is None:
            return pool_edges(near, own, neighbours, self.edge_norm, valid)
        sums = sum_edges(near, own, neighbours)
        entries = num_centres * self.ball.num_neighbours
        affine = Affine(*self.edge_norm.affine_of_clouds(sums.total, sums.squares, entries, valid))
        linears = cast(list[nn.Linear], list(self.linears))
        norms = cast(list[GhostBatchNorm], list(self.norms))
        for linear, norm in zip(linears[:-1], norms[:-1], strict=True):
            near, own, neighbours = map_each_edge(near, own, neighbours, affine, linear)
            sums = sum_edges(near, own, neighbours)
            affine = Affine(*norm.affine_of_clouds(sums.total, sums.squares, entries, valid))
        pooled = pool_mapped_edges(
            near, own, neighbours, affine, linears[-1].weight, norms[-1], valid
        )
        return functional.relu(pooled + self.skip(features[:, :num_centres]))


class InvertedResidual(nn.Module):
    """InvResMLP: one map of the edges, their maximum, two wider maps of the point, and a residual.

    Args:
        width: features of a point, before and after.
        expansion: how many times wider the middle is.
        ball: the neighbourhood.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(self, width: int, expansion: int, ball: Ball, ghost_batch: int) -> None:
        super().__init__()
        self.edge_linear = EdgeLinear(width, width, ball.radius)
        self.edge_norm = GhostBatchNorm(width, ghost_batch)
        self.expand = nn.Linear(width, expansion * width, bias=False)
        self.expand_norm = GhostBatchNorm(expansion * width, ghost_batch)
        self.project = nn.Linear(expansion * width, width, bias=False)
        self.project_norm = GhostBatchNorm(width, ghost_batch)

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
        neighbours: Neighbours,
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N C"]:
        """Describe each point anew."""
        near, own = self.edge_linear(points, points, features)
        pooled = pool_edges(near, own, neighbours, self.edge_norm, valid)
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        wide = self.expand_norm(self.expand(pooled), mask, slope=0.0)
        return functional.relu(self.project_norm(self.project(wide), mask) + features)


def pool_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    norm: GhostBatchNorm,
    valid: Bool[Tensor, " B"] | None,
) -> Float[Tensor, "B M C"]:
    """Normalise and rectify all edges and take each centre's largest, or the same done in turn."""
    edges = reduce_edges(near, own, neighbours, torch.where(norm.weight < 0, -1.0, 1.0))
    entries = neighbours.index.shape[1] * neighbours.index.shape[2]
    sums = edges.sums
    affine = Affine(*norm.affine_of_clouds(sums.total, sums.squares, entries, valid))
    return _scale_and_shift(edges.extreme, affine, slope=0.0)


def pool_mapped_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    norm: GhostBatchNorm,
    valid: Bool[Tensor, " B"] | None,
) -> Float[Tensor, "B M D"]:
    """Map the rectified edges, normalise the result, and take each centre's largest."""
    sign = torch.where(norm.weight < 0, -1.0, 1.0)
    mapped = map_edges(
        near, own, neighbours, affine, weight, sign, valid, with_moments=norm.training
    )
    if mapped.mean is None or mapped.covariance is None:
        scale, shift = norm.running_affine()
        return _scale_and_shift(mapped.extreme, Affine(scale[None], shift[None]), slope=1.0)
    with torch.autocast(near.device.type, enabled=False):
        mean = mapped.mean @ weight.double().T
        variance = variance_of_map(weight, mapped.covariance).clamp(min=0)
    count = _count_entries(neighbours, len(mean), valid).to(mean)
    affine = Affine(*norm.affine(Moments(mean, variance, count)))
    return _scale_and_shift(mapped.extreme, affine, slope=1.0)


def map_each_edge(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    linear: nn.Linear,
) -> tuple[Float[Tensor, "B E D"], Float[Tensor, "B M D"], Neighbours]:
    """Rectify and map every edge, and give the results as points of their own around each centre.

    They are kept, so this is for the middle of three maps only.
    """
    num_clouds, num_centres, k = neighbours.index.shape
    cloud = torch.arange(num_clouds, device=near.device)[:, None, None]
    edges = near[cloud, neighbours.index] + own[:, :, None]
    hidden = _scale_and_shift(edges.flatten(1, 2), affine, slope=0.0)
    mapped = linear(hidden)
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


def _scale_and_shift(
    x: Float[Tensor, "B M C"], affine: Affine, slope: float
) -> Float[Tensor, "B M C"]:
    ghosts = x.reshape(len(affine.scale), -1, x.shape[-1])
    y = scale_and_shift(ghosts, affine.scale.to(x), affine.shift.to(x), slope)
    return y.view(x.shape)
