"""How does DGCNN tell the parts of a shape, or the things of a scene? Point by point.

Three EdgeConv layers, the first two with two maps of an edge; one wide layer, whose maximum over
the points is put beside each point's three features; then maps of each point. For parts, a small
network first turns the cloud, and the shape's class is known.

Source: Dynamic Graph CNN (arXiv:1801.07829), sections 4.3 and 4.4; antao97/dgcnn.pytorch.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from picpoint.encoders.dgcnn import EdgeConv, near_and_own
from picpoint.encoders.edge_pooling import affine_of_edges, pool_mapped_edges
from picpoint.ops.balls import all_distinct
from picpoint.ops.dropout import Dropout
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.neighbours import nearest_neighbours

_SLOPE = 0.2  # of LeakyReLU below zero


@dataclass(frozen=True, slots=True)
class DgcnnSegmenterConfig:
    """Shape of a segmentation network.

    Attributes:
        in_channels: features of an input point; the last three are what the first layer searches
            neighbours by.
        num_classes: scores of each point.
        hidden_widths: features of each map before the scores.
        dropped: how many of the last hidden maps but one, or of the last, lose features in
            training: those whose number, from 0, stands here.
        num_neighbours: edges per point, itself included.
        num_categories: classes of shapes, told to the network with each shape; 0 for scenes.
        turned: whether a spatial transformer comes first; then inputs are positions.
        width: features after each EdgeConv.
        pooled_width: features per point before the maximum.
        dropout: share of hidden features left out in training.
    """

    in_channels: int
    num_classes: int
    hidden_widths: tuple[int, ...]
    dropped: tuple[int, ...]
    num_neighbours: int
    num_categories: int = 0
    turned: bool = False
    width: int = 64
    pooled_width: int = 1024
    dropout: float = 0.5


# ShapeNetPart: 50 parts of 16 classes of shapes. S3DIS: 9 features, the last the place in the room.
DGCNN_PARTS = DgcnnSegmenterConfig(3, 50, (256, 256, 128), (0, 1), 40, 16, turned=True)
DGCNN_SCENES = DgcnnSegmenterConfig(9, 13, (512, 256), (1,), 20)


class DgcnnSegmenter(nn.Module):
    """DGCNN for parts or scenes.

    Args:
        config: its shape.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(self, config: DgcnnSegmenterConfig, ghost_batch: int) -> None:
        super().__init__()
        self.config = config
        width, pooled = config.width, config.pooled_width
        self.transformer = (
            SpatialTransformer(config.num_neighbours, ghost_batch) if config.turned else None
        )
        self.edge_convs = nn.ModuleList(
            (
                TwoMapEdgeConv(config.in_channels, width, width, ghost_batch),
                TwoMapEdgeConv(width, width, width, ghost_batch),
                EdgeConv(width, width, ghost_batch),
            )
        )
        self.linear = nn.Linear(3 * width, pooled, bias=False)
        self.norm = GhostBatchNorm(pooled, ghost_batch)
        known = 0
        if config.num_categories:
            known = width
            self.category = nn.Linear(config.num_categories, known, bias=False)
            self.category_norm = GhostBatchNorm(known, ghost_batch)
        widths = (pooled + known + 3 * width, *config.hidden_widths)
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(after, ghost_batch) for after in widths[1:])
        self.dropouts = nn.ModuleList(
            Dropout(config.dropout if number in config.dropped else 0.0)
            for number in range(len(config.hidden_widths))
        )
        self.scores = nn.Linear(widths[-1], config.num_classes, bias=False)

    def forward(
        self,
        points: Float[Tensor, "B N C"],
        categories: Int64[Tensor, " B"] | None = None,
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N classes"]:
        """Score the classes of each point, before any softmax.

        Args:
            points: input features.
            categories: class of each shape, for parts.
            valid: False for a slot that holds no cloud; it enters no statistic.
        """
        if valid is not None:
            points = points.masked_fill(~valid[:, None, None], 0)
        if self.transformer is not None:
            matrix = self.transformer(points, valid)
            # Edges are small differences of positions, so these stay float32 also under autocast.
            with torch.autocast(points.device.type, enabled=False):
                points = points @ matrix.to(points)
        levels = self._levels(points, valid)
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        local = torch.cat(levels, dim=-1)
        cloud = self.norm(self.linear(local), mask, _SLOPE).max(dim=1).values
        if categories is not None:
            one_hot = functional.one_hot(categories, self.config.num_categories).to(cloud)
            known = self.category_norm(self.category(one_hot), valid, _SLOPE)
            cloud = torch.cat([cloud, known], dim=-1)
        x = torch.cat([cloud[:, None].expand(-1, points.shape[1], -1), local], dim=-1)
        for linear, norm, dropout in zip(self.linears, self.norms, self.dropouts, strict=True):
            x = norm(linear(x), mask, _SLOPE)
            x = dropout(x)
        return self.scores(x)

    def _levels(
        self, points: Float[Tensor, "B N C"], valid: Bool[Tensor, " B"] | None
    ) -> list[Float[Tensor, "B N width"]]:
        """Give the features after each EdgeConv."""
        features, sought, levels = points, points[..., -3:], list[Tensor]()
        for edge_conv in self.edge_convs:
            index = nearest_neighbours(sought, self.config.num_neighbours)
            features = edge_conv(features, index, valid)
            sought = features
            levels.append(features)
        return levels


class TwoMapEdgeConv(nn.Module):
    """Two linear maps of each edge, each with BatchNorm over all edges and LeakyReLU; then max.

    The first weight acts on [x_j - x_i, x_i], as in public checkpoints.
    """

    def __init__(self, width_in: int, width_between: int, width_out: int, ghost_batch: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width_in, width_between, bias=False)
        self.first_norm = GhostBatchNorm(width_between, ghost_batch)
        self.second = nn.Linear(width_between, width_out, bias=False)
        self.second_norm = GhostBatchNorm(width_out, ghost_batch)

    def forward(
        self,
        features: Float[Tensor, "B N C_in"],
        index: Int64[Tensor, "B N k"],
        valid: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N C_out"]:
        """Describe each point by its edges."""
        near, own = near_and_own(features, self.first.weight)
        neighbours = all_distinct(index)
        affine = affine_of_edges(near, own, neighbours, self.first_norm, valid)
        return pool_mapped_edges(
            near,
            own,
            neighbours,
            affine,
            self.second.weight,
            self.second_norm,
            valid,
            inner_slope=_SLOPE,
            slope=_SLOPE,
        )


class SpatialTransformer(nn.Module):
    """Guess the 3 x 3 matrix by which a cloud should be turned; at first the identity."""

    def __init__(self, num_neighbours: int, ghost_batch: int) -> None:
        super().__init__()
        self.num_neighbours = num_neighbours
        self.edge_conv = TwoMapEdgeConv(3, 64, 128, ghost_batch)
        widths = (128, 1024, 512, 256)
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(after, ghost_batch) for after in widths[1:])
        self.entries = nn.Linear(widths[-1], 9)
        nn.init.zeros_(self.entries.weight)
        with torch.no_grad():
            self.entries.bias.copy_(torch.eye(3).flatten())

    def forward(
        self, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B 3 3"]:
        """Give the matrix that rows of points are multiplied by."""
        index = nearest_neighbours(points, self.num_neighbours)
        x = self.edge_conv(points, index, valid)
        mask = None if valid is None else valid[:, None].expand(points.shape[:2])
        norms = cast(list[GhostBatchNorm], list(self.norms))
        x = norms[0](self.linears[0](x), mask, _SLOPE).max(dim=1).values
        for linear, norm in zip(list(self.linears)[1:], norms[1:], strict=True):
            x = norm(linear(x), valid, _SLOPE)
        return self.entries(x).unflatten(-1, (3, 3))
