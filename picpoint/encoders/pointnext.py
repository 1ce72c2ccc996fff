"""How does PointNeXt describe a cloud? By ever fewer centres and their ever larger neighbourhoods.

The classification encoder: a linear stem, four stages that halve the points and double the features
(a set abstraction each, then inverted residual blocks in B, L and XL), and one abstraction of all
points that are left. Local features are those of a stage's centres, which are the leading points.

Source: PointNeXt (arXiv:2206.04670), section 3 and table 9; `cfgs/modelnet40ply2048` of its code.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from picpoint.batch import PointFeatures
from picpoint.encoders.clouds import check_clouds
from picpoint.encoders.set_abstraction import Ball, InvertedResidual, SetAbstraction
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.sampling import farthest_points, take_rows


@dataclass(frozen=True, slots=True)
class PointNextConfig:
    """Shape of the encoder; the defaults are the published PointNeXt-S for classification.

    Attributes:
        name: tells this config from other encoders'.
        width: features of the stem; each stage doubles them.
        strides: points before a stage over its centres.
        blocks: inverted residual blocks of each stage.
        abstraction_layers: linear maps of an edge in a set abstraction. Published: 2 in S, with a
            residual; 1 in B, L and XL, without.
        expansion: of the inverted residual blocks.
        radius: of the first stage's balls, in unit-sphere units.
        radius_scaling: a stage's radius over that of the stage before; its residual blocks have
            the next stage's.
        num_neighbours: most points in a ball.
        local_stage: which stage's centres give local features, from 1. Paper: unspecified; here
            the second, a quarter of the points, because there neighbourhoods are parts.
        sampling: `stored` takes the leading points as centres, which is farthest-point sampling
            where clouds come in farthest-point order, as those of a shard set do; `farthest` brings
            them into that order first, so that any order gives the same features. Local features
            are then those of the leading points in the new order.
    """

    name: Literal["pointnext_s", "pointnext_b", "pointnext_l", "pointnext_xl"] = "pointnext_s"
    width: int = 32
    strides: tuple[int, ...] = (2, 2, 2, 2)
    blocks: tuple[int, ...] = (0, 0, 0, 0)
    abstraction_layers: int = 2
    expansion: int = 4
    radius: float = 0.15
    radius_scaling: float = 1.5
    num_neighbours: int = 32
    local_stage: int = 2
    sampling: Literal["stored", "farthest"] = "stored"

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.blocks) or not self.strides:
            raise ValueError(
                f"point_encoder.strides={list(self.strides)}, point_encoder.blocks="
                f"{list(self.blocks)}: one number each for every stage; make them equally long"
            )
        if not 1 <= self.local_stage <= len(self.strides):
            raise ValueError(
                f"point_encoder.local_stage={self.local_stage}: must be one of the "
                f"{len(self.strides)} stages, from 1"
            )
        above_0 = ("width", "abstraction_layers", "expansion", "radius", "radius_scaling")
        for name in (*above_0, "num_neighbours"):
            if not getattr(self, name) > 0:
                raise ValueError(f"point_encoder.{name}={getattr(self, name)}: must be above 0")
        if min(self.strides) < 1 or min(self.blocks) < 0:
            raise ValueError(
                f"point_encoder.strides={list(self.strides)}, point_encoder.blocks="
                f"{list(self.blocks)}: strides are at least 1, blocks at least 0"
            )


POINTNEXT_S = PointNextConfig()
POINTNEXT_B = PointNextConfig("pointnext_b", blocks=(1, 2, 1, 1), abstraction_layers=1)
POINTNEXT_L = PointNextConfig("pointnext_l", blocks=(2, 4, 2, 2), abstraction_layers=1)
POINTNEXT_XL = PointNextConfig("pointnext_xl", width=64, blocks=(3, 6, 3, 3), abstraction_layers=1)


class PointNext(nn.Module):
    """PointNeXt's classification encoder.

    Args:
        config: its shape.
        ghost_batch: shapes that share BatchNorm statistics.

    Attributes:
        local_width: C of `PointFeatures.local`.
        pooled_width: C of `PointFeatures.pooled`.
    """

    def __init__(self, config: PointNextConfig, ghost_batch: int) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Linear(3, config.width)
        self.stages = build_stages(config, ghost_batch)
        self.local_width = config.width * 2**config.local_stage
        self.pooled_width = config.width * 2 ** len(config.strides)
        self.pool = PointPool(self.pooled_width, config.abstraction_layers, ghost_batch)

    def num_local(self, num_points: int) -> int:
        """Count the leading points that get local features."""
        for stride in self.config.strides[: self.config.local_stage]:
            num_points //= stride
        return num_points

    def forward(
        self, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, " B"] | None = None
    ) -> PointFeatures:
        """Describe clouds.

        Args:
            points: unit-sphere units; in farthest-point order if `sampling` is `stored`.
            valid: False for a slot that holds no shape; it enters no statistic.

        Raises:
            ValueError: points are no clouds, or they are too small for the strides.
        """
        check_clouds(points)
        if valid is not None:
            points = points.masked_fill(~valid[:, None, None], 0)
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        if self.config.sampling == "farthest":
            points = take_rows(points, farthest_points(points, points.shape[1]))
        levels = describe_levels(self.stages, points, self.stem(points), valid)
        last = levels[-1]
        return PointFeatures(
            local=levels[self.config.local_stage].features,
            pooled=self.pool(last.points, last.features, valid),
        )


class Stage(nn.Module):
    """A set abstraction and the inverted residual blocks after it."""

    def __init__(
        self, abstraction: SetAbstraction, blocks: list[InvertedResidual], stride: int, ball: Ball
    ) -> None:
        super().__init__()
        self.abstraction = abstraction
        self.blocks = nn.ModuleList(blocks)
        self.stride = stride
        self.ball = ball

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
        valid: Bool[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B M 3"], Float[Tensor, "B M D"]]:
        """Give the centres and their features.

        Raises:
            ValueError: there are fewer points than the stride, so that none would be left.
        """
        num_centres = points.shape[1] // self.stride
        if num_centres < 1:
            raise ValueError(
                f"{points.shape[1]} points come to a stage of stride {self.stride}, and none would "
                "be left: give larger clouds, or set smaller point_encoder.strides"
            )
        features = self.abstraction(points, features, num_centres, valid)
        centres = points[:, :num_centres]
        if len(self.blocks):
            neighbours = self.ball.around(centres, centres)
            for block in self.blocks:
                features = block(centres, features, neighbours, valid)
        return centres, features


class PointPool(nn.Module):
    """Linear maps of all points, their positions beside their features, and the maximum.

    Every map has BatchNorm and ReLU and is as wide as the features.
    """

    def __init__(self, width: int, num_layers: int, ghost_batch: int) -> None:
        super().__init__()
        widths = [3 + width] + [width] * num_layers
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(width, ghost_batch) for _ in range(num_layers))

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Describe each cloud."""
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        rows = torch.cat([points.to(features), features], dim=-1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            rows = norm(linear(rows), mask, slope=0.0)
        return rows.max(dim=1).values


@dataclass(frozen=True, slots=True)
class Level:
    """Points and their features, before the first stage or after one."""

    points: Float[Tensor, "B M 3"]
    features: Float[Tensor, "B M C"]


def describe_levels(
    stages: nn.ModuleList,
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    valid: Bool[Tensor, " B"] | None = None,
) -> list[Level]:
    """Run stages one after the other; gives what came in, then what each gave."""
    levels = [Level(points, features)]
    for stage in stages:
        points, features = cast(Stage, stage)(points, features, valid)
        levels.append(Level(points, features))
    return levels


def build_stages(config: PointNextConfig, ghost_batch: int) -> nn.ModuleList:
    """Build the stages of an encoder."""
    stages, width, radius = nn.ModuleList(), config.width, config.radius
    for stride, num_blocks in zip(config.strides, config.blocks, strict=True):
        ball = Ball(radius, config.num_neighbours)
        radius *= config.radius_scaling
        next_ball = Ball(radius, config.num_neighbours)
        abstraction = SetAbstraction(width, 2 * width, config.abstraction_layers, ball, ghost_batch)
        width *= 2
        blocks = [
            InvertedResidual(width, config.expansion, next_ball, ghost_batch)
            for _ in range(num_blocks)
        ]
        stages.append(Stage(abstraction, blocks, stride, next_ball))
    return stages
