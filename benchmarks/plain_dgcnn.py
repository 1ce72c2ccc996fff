"""What does DGCNN cost as it is usually written? Every edge is built, multiplied and normalised.

Same parameters and the same function as picpoint.encoders.dgcnn, for tests and benchmarks.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn, EdgeConv


def plain_neighbours(features: Float[Tensor, "B N C"], k: int) -> Int64[Tensor, "B N k"]:
    """Find the k nearest rows of each row from all N x N distances."""
    with torch.no_grad():
        inner = features @ features.mT
        squared_norm = features.square().sum(dim=-1)
        nearness = 2 * inner - squared_norm[:, None, :] - squared_norm[:, :, None]
        return nearness.topk(k, dim=-1).indices


def plain_edge_conv(
    layer: EdgeConv,
    features: Float[Tensor, "B N C_in"],
    index: Int64[Tensor, "B N k"],
    valid: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, "B N C_out"]:
    """Apply an EdgeConv edge by edge."""
    cloud = torch.arange(len(features), device=features.device)[:, None, None]
    own = features[:, :, None].expand(*index.shape, -1)
    edges = torch.cat([features[cloud, index] - own, own], dim=-1)
    mask = None if valid is None else valid[:, None, None].expand(index.shape)
    return functional.leaky_relu(layer.norm(layer.linear(edges), mask), 0.2).amax(dim=2)


def plain_dgcnn(
    encoder: Dgcnn, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, " B"] | None = None
) -> PointFeatures:
    """Describe clouds with the parameters of `encoder`, the usual way."""
    features, levels = points, []
    for layer in encoder.edge_convs:
        assert isinstance(layer, EdgeConv)
        index = plain_neighbours(features, encoder.config.num_neighbours)
        features = plain_edge_conv(layer, features, index, valid)
        levels.append(features)
    mask = None if valid is None else valid[:, None].expand(points.shape[:2])
    local = encoder.norm(encoder.linear(torch.cat(levels, dim=-1)), mask)
    local = functional.leaky_relu(local, 0.2)
    return PointFeatures(local, torch.cat([local.amax(dim=1), local.mean(dim=1)], dim=-1))
