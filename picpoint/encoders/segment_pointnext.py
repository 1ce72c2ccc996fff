"""How does PointNeXt tell the parts of a shape, or the things of a scene? Point by point.

The encoder's stages without its pool, then as many feature propagations: a coarse level's features
are interpolated at the points of the finer one, put beside those that it had, and mapped twice.
For parts, the finest level also gets two features of the whole cloud and the shape's class.

Source: PointNeXt (arXiv:2206.04670), section 3; `cfgs/s3dis` and `cfgs/shapenetpart` of its code.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from picpoint.encoders.pointnext import (
    POINTNEXT_B,
    POINTNEXT_L,
    POINTNEXT_S,
    POINTNEXT_XL,
    Level,
    PointNextConfig,
    build_stages,
    describe_levels,
)
from picpoint.ops.dropout import Dropout
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.interpolate import interpolate, nearest_three

# Features of the whole cloud that parts are told by, from the last stage but one and from the last.
_CLOUD_WIDTHS = (64, 128)


@dataclass(frozen=True, slots=True)
class PointNextSegmenterConfig:
    """Shape of a segmentation network.

    Attributes:
        encoder: its stages; `local_stage` has no meaning here.
        in_channels: features of an input point. Published: 4 for scenes (colour, height), 7 for
            parts (position, normal, height).
        num_classes: scores of each point.
        num_categories: classes of shapes, told to the network with each shape; 0 for scenes.
        dropout: share of hidden features left out before the scores, in training.
    """

    encoder: PointNextConfig
    in_channels: int
    num_classes: int
    num_categories: int = 0
    dropout: float = 0.5


def pointnext_scenes(
    size: Literal["s", "b", "l", "xl"], num_classes: int = 13
) -> PointNextSegmenterConfig:
    """Give the published network for scenes (S3DIS); lengths in metres."""
    sizes = {"s": POINTNEXT_S, "b": POINTNEXT_B, "l": POINTNEXT_L, "xl": POINTNEXT_XL}
    encoder = replace(sizes[size], strides=(4, 4, 4, 4), radius=0.1, radius_scaling=2.0)
    return PointNextSegmenterConfig(encoder, in_channels=4, num_classes=num_classes)


def pointnext_parts(width: int = 32) -> PointNextSegmenterConfig:
    """Give the published network for the parts of ShapeNetPart; unit-sphere lengths."""
    encoder = replace(
        POINTNEXT_S, width=width, abstraction_layers=3, radius=0.1, radius_scaling=2.5
    )
    return PointNextSegmenterConfig(encoder, in_channels=7, num_classes=50, num_categories=16)


class PointNextSegmenter(nn.Module):
    """PointNeXt for parts or scenes. `stem` and `stages` are named as the encoder's.

    Args:
        config: its shape.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(self, config: PointNextSegmenterConfig, ghost_batch: int) -> None:
        super().__init__()
        self.config = config
        width, num_stages = config.encoder.width, len(config.encoder.strides)
        widths = [width * 2**level for level in range(num_stages + 1)]
        self.stem = nn.Linear(config.in_channels, width)
        self.stages = build_stages(config.encoder, ghost_batch)
        beside = 0
        if config.num_categories:
            self.cloud_maps = nn.ModuleList(
                nn.Linear(before, after)
                for before, after in zip(widths[-2:], _CLOUD_WIDTHS, strict=True)
            )
            beside = sum(_CLOUD_WIDTHS) + config.num_categories
        self.propagations = nn.ModuleList(
            FeaturePropagation(fine + coarse + (beside if level == 0 else 0), fine, ghost_batch)
            for level, (fine, coarse) in enumerate(pairwise(widths))
        )
        hidden = 3 * width if config.num_categories else width
        self.hidden = nn.Linear(hidden, hidden, bias=False)
        self.hidden_norm = GhostBatchNorm(hidden, ghost_batch)
        self.dropout = Dropout(config.dropout)
        self.scores = nn.Linear(hidden, config.num_classes)

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        features: Float[Tensor, "B N C"],
        categories: Int64[Tensor, " B"] | None = None,
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N classes"]:
        """Score the classes of each point, before any softmax.

        Args:
            points: positions, in farthest-point order.
            features: of each point; the position is one only if it stands there.
            categories: class of each shape, for parts.
            valid: False for a slot that holds no cloud; it enters no statistic.
        """
        if valid is not None:
            points = points.masked_fill(~valid[:, None, None], 0)
            features = features.masked_fill(~valid[:, None, None], 0)
        levels = describe_levels(self.stages, points, self.stem(features), valid)
        x = self._propagate(levels, categories, valid)
        if self.config.num_categories:
            pooled = torch.cat([x.max(dim=1).values, x.mean(dim=1)], dim=-1)
            x = torch.cat([x, pooled[:, None].expand(-1, x.shape[1], -1)], dim=-1)
        x = self.hidden_norm(self.hidden(x), _mask(x, valid), slope=0.0)
        return self.scores(self.dropout(x))

    def _propagate(
        self,
        levels: list[Level],
        categories: Int64[Tensor, " B"] | None,
        valid: Bool[Tensor, " B"] | None,
    ) -> Float[Tensor, "B N C"]:
        """Bring the features of the last level to the first."""
        features = levels[-1].features
        for number in reversed(range(len(self.propagations))):
            fine, coarse = levels[number], Level(levels[number + 1].points, features)
            if number == 0 and categories is not None:
                fine = Level(fine.points, self._with_cloud(levels, categories))
            features = cast(FeaturePropagation, self.propagations[number])(fine, coarse, valid)
        return features

    def _with_cloud(
        self, levels: list[Level], categories: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B N C"]:
        """Put what is known of the whole cloud beside each point's features."""
        first = levels[0].features
        known = [
            functional.relu(linear(level.features)).max(dim=1).values
            for linear, level in zip(self.cloud_maps, levels[-2:], strict=True)
        ]
        known.append(functional.one_hot(categories, self.config.num_categories).to(first))
        cloud = torch.cat(known, dim=-1)[:, None].expand(-1, first.shape[1], -1)
        return torch.cat([cloud, first], dim=-1)


class FeaturePropagation(nn.Module):
    """Interpolate a coarse level's features at a finer level's points, beside its own; map twice.

    Args:
        width_in: of both together.
        width_out: of the result.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(self, width_in: int, width_out: int, ghost_batch: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            nn.Linear(before, width_out, bias=False) for before in (width_in, width_out)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(width_out, ghost_batch) for _ in range(2))

    def forward(
        self, fine: Level, coarse: Level, valid: Bool[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B N C"]:
        """Describe the finer level's points."""
        interpolation = nearest_three(fine.points, coarse.points)
        x = torch.cat([fine.features, interpolate(coarse.features, interpolation)], dim=-1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(linear(x), _mask(x, valid), slope=0.0)
        return x


def _mask(
    x: Float[Tensor, "B N C"], valid: Bool[Tensor, " B"] | None
) -> Bool[Tensor, "B N"] | None:
    """Spread the clouds' validity over their points."""
    return None if valid is None else valid[:, None].expand(x.shape[:2])
