"""What does PointNeXt cost as it is usually written? Edges are built, multiplied and normalised.

Same parameters and the same function as picpoint.encoders.pointnext, for tests and benchmarks.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import PointFeatures
from picpoint.encoders.pointnext import PointNext, PointPool, Stage
from picpoint.encoders.set_abstraction import InvertedResidual, SetAbstraction
from picpoint.ops.balls import Neighbours
from picpoint.ops.ghost_norm import GhostBatchNorm


def plain_pointnext(
    encoder: PointNext, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, " B"] | None = None
) -> PointFeatures:
    """Describe clouds with the parameters of `encoder`, the usual way."""
    features, levels = encoder.stem(points), []
    for stage in encoder.stages:
        points, features = plain_stage(cast(Stage, stage), points, features, valid)
        levels.append(features)
    pooled = plain_pool(encoder.pool, points, features, valid)
    return PointFeatures(levels[encoder.config.local_stage - 1], pooled)


def plain_stage(
    stage: Stage,
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    valid: Bool[Tensor, " B"] | None,
) -> tuple[Float[Tensor, "B M 3"], Float[Tensor, "B M D"]]:
    """Apply a stage edge by edge."""
    centres = points[:, : points.shape[1] // stage.stride]
    features = plain_abstraction(stage.abstraction, centres, points, features, valid)
    if len(stage.blocks):
        neighbours = stage.ball.around(centres, centres)
        for block in stage.blocks:
            block = cast(InvertedResidual, block)
            features = plain_inverted_residual(block, centres, features, neighbours, valid)
    return centres, features


def plain_edges(
    centres: Float[Tensor, "B M 3"],
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    neighbours: Neighbours,
    radius: float,
) -> Float[Tensor, "B M k D"]:
    """Build all edges."""
    cloud = torch.arange(len(points), device=points.device)[:, None, None]
    offsets = (points[cloud, neighbours.index] - centres[:, :, None]) / radius
    return torch.cat([offsets, features[cloud, neighbours.index]], dim=-1)


def plain_abstraction(
    layer: SetAbstraction,
    centres: Float[Tensor, "B M 3"],
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    valid: Bool[Tensor, " B"] | None,
) -> Float[Tensor, "B M D"]:
    """Apply a set abstraction edge by edge."""
    neighbours = layer.ball.around(centres, points)
    x = plain_edges(centres, points, features, neighbours, layer.ball.radius)
    mask = None if valid is None else valid[:, None, None].expand(x.shape[:-1])
    x = layer.edge_norm(layer.edge_linear.linear(x), mask)
    for linear, norm in zip(layer.linears, layer.norms, strict=True):
        x = norm(linear(functional.relu(x)), mask)
    pooled = x.amax(dim=2)
    if layer.skip is not None:
        pooled = pooled + layer.skip(features[:, : centres.shape[1]])
    return functional.relu(pooled)


def plain_inverted_residual(
    block: InvertedResidual,
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    neighbours: Neighbours,
    valid: Bool[Tensor, " B"] | None,
) -> Float[Tensor, "B N C"]:
    """Apply an inverted residual block edge by edge."""
    x = plain_edges(points, points, features, neighbours, block.edge_linear.radius)
    mask = None if valid is None else valid[:, None, None].expand(x.shape[:-1])
    x = functional.relu(block.edge_norm(block.edge_linear.linear(x), mask)).amax(dim=2)
    mask = None if valid is None else valid[:, None].expand(x.shape[:-1])
    x = functional.relu(block.expand_norm(block.expand(x), mask))
    return functional.relu(block.project_norm(block.project(x), mask) + features)


def plain_pool(
    pool: PointPool,
    points: Float[Tensor, "B N 3"],
    features: Float[Tensor, "B N C"],
    valid: Bool[Tensor, " B"] | None,
) -> Float[Tensor, "B C"]:
    """Apply the abstraction of all points."""
    mask = None if valid is None else valid[:, None].expand(points.shape[:2])
    x = torch.cat([points, features], dim=-1)
    for linear, norm in zip(pool.linears, pool.norms, strict=True):
        x = functional.relu(cast(GhostBatchNorm, norm)(cast(nn.Linear, linear)(x), mask))
    return x.amax(dim=1)
