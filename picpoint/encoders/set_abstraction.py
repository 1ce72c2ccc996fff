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

from picpoint.encoders.edge_pooling import (
    affine_of_edges,
    map_each_edge,
    pool_edges,
    pool_mapped_edges,
)
from picpoint.ops.balls import Neighbours, points_in_balls
from picpoint.ops.ghost_norm import GhostBatchNorm


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
            return pool_edges(near, own, neighbours, self.edge_norm, valid, slope=0.0)
        affine = affine_of_edges(near, own, neighbours, self.edge_norm, valid)
        linears = cast(list[nn.Linear], list(self.linears))
        norms = cast(list[GhostBatchNorm], list(self.norms))
        for linear, norm in zip(linears[:-1], norms[:-1], strict=True):
            near, own, neighbours = map_each_edge(near, own, neighbours, affine, linear, slope=0.0)
            affine = affine_of_edges(near, own, neighbours, norm, valid)
        pooled = pool_mapped_edges(
            near,
            own,
            neighbours,
            affine,
            linears[-1].weight,
            norms[-1],
            valid,
            inner_slope=0.0,
            slope=1.0,
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
        pooled = pool_edges(near, own, neighbours, self.edge_norm, valid, slope=0.0)
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        wide = self.expand_norm(self.expand(pooled), mask, slope=0.0)
        return functional.relu(self.project_norm(self.project(wide), mask) + features)
