"""How does DGCNN describe a cloud? By edges to the nearest neighbours, found anew in each layer.

The classification encoder: four EdgeConv layers, their outputs side by side, one wide layer per
point, max and mean over the points. An EdgeConv applies one linear map to [x_j - x_i, x_i] for each
neighbour j of each point i, then BatchNorm, LeakyReLU and the max over j. Here the same function is
computed with two products per point, not one per edge:

    W [x_j - x_i, x_i] = W1 x_j + (W2 - W1) x_i = near_j + own_i

As the activation rises and a scale only has a sign, the max is taken of near_j (the min, where the
scale is negative) before all else; BatchNorm's statistics over the edges follow from sums.

Source: Dynamic Graph CNN (arXiv:1801.07829), section 4.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import PointFeatures
from picpoint.encoders.clouds import check_clouds
from picpoint.encoders.edge_pooling import pool_edges
from picpoint.ops.balls import all_distinct
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.neighbours import nearest_neighbours
from picpoint.ops.pool import max_and_mean

_SLOPE = 0.2  # of LeakyReLU below zero


@dataclass(frozen=True, slots=True)
class DgcnnConfig:
    """Shape of the encoder; the defaults are the published classification network.

    Attributes:
        name: tells this config from other encoders'.
        widths: features after each EdgeConv.
        pooled_width: features per point before pooling; the pooled feature is twice as wide.
        num_neighbours: edges per point, itself included.
    """

    name: Literal["dgcnn"] = "dgcnn"
    widths: tuple[int, ...] = (64, 64, 128, 256)
    pooled_width: int = 1024
    num_neighbours: int = 20

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.pooled_width, self.num_neighbours) < 1:
            raise ValueError(
                f"point_encoder.widths={list(self.widths)}, point_encoder.pooled_width="
                f"{self.pooled_width}, point_encoder.num_neighbours={self.num_neighbours}: give at "
                "least one width, and numbers above 0"
            )


class Dgcnn(nn.Module):
    """DGCNN's classification encoder.

    Args:
        config: its shape.
        ghost_batch: shapes that share BatchNorm statistics.

    Attributes:
        local_width: C of `PointFeatures.local`.
        pooled_width: C of `PointFeatures.pooled`.
    """

    def __init__(self, config: DgcnnConfig, ghost_batch: int) -> None:
        super().__init__()
        self.config = config
        self.local_width = config.pooled_width
        self.pooled_width = 2 * config.pooled_width
        inputs = (3, *config.widths[:-1])
        self.edge_convs = nn.ModuleList(
            EdgeConv(width_in, width_out, ghost_batch)
            for width_in, width_out in zip(inputs, config.widths, strict=True)
        )
        self.linear = nn.Linear(sum(config.widths), config.pooled_width, bias=False)
        self.norm = GhostBatchNorm(config.pooled_width, ghost_batch)

    def num_local(self, num_points: int) -> int:
        """Count the leading points that get local features: all of them."""
        return num_points

    def forward(
        self, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, " B"] | None = None
    ) -> PointFeatures:
        """Describe clouds.

        Args:
            points: unit-sphere units.
            valid: False for a slot that holds no shape; it enters no statistic.

        Raises:
            ValueError: points are no clouds, or they hold fewer points than neighbours.
        """
        check_clouds(points)
        if valid is not None:
            points = points.masked_fill(~valid[:, None, None], 0)
        features, levels = points, []
        for edge_conv in self.edge_convs:
            index = nearest_neighbours(features, self.config.num_neighbours)
            features = edge_conv(features, index, valid)
            levels.append(features)
        # Float32 before the norm: it saves the passes that would narrow its output again.
        wide = _at_least_float32(self.linear(torch.cat(levels, dim=-1)))
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        local = self.norm(wide, mask, _SLOPE)
        return PointFeatures(local=local, pooled=max_and_mean(local))


class EdgeConv(nn.Module):
    """Linear map of each edge, BatchNorm over all edges, LeakyReLU, max over the neighbours.

    The weight acts on [x_j - x_i, x_i], as in public checkpoints.
    """

    def __init__(self, width_in: int, width_out: int, ghost_batch: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width_in, width_out, bias=False)
        self.norm = GhostBatchNorm(width_out, ghost_batch)

    def forward(
        self,
        features: Float[Tensor, "B N C_in"],
        index: Int64[Tensor, "B N k"],
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N C_out"]:
        """Describe each point by its edges.

        Args:
            features: one finite row per point.
            index: the neighbours of each point.
            valid: False for clouds that enter no statistic.
        """
        near, own = near_and_own(features, self.linear.weight)
        return pool_edges(near, own, all_distinct(index), self.norm, valid, _SLOPE)


def near_and_own(
    features: Float[Tensor, "B N C_in"], weight: Float[Tensor, "C_out two_C_in"]
) -> tuple[Float[Tensor, "B N C_out"], Float[Tensor, "B N C_out"]]:
    """Take a linear map of [x_j - x_i, x_i] once per point: near_j + own_i is that of an edge."""
    on_difference, on_own = weight.chunk(2, dim=1)
    # near and own mostly cancel in an edge, so they stay float32 also under autocast.
    with torch.autocast(features.device.type, enabled=False):
        wide = _at_least_float32(features)
        near = functional.linear(wide, on_difference)
        return near, functional.linear(wide, on_own - on_difference)


def _at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Widen half precision; leave the rest."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
