"""How are openpoints' encoders given the parameters of ours? By the maps that import checkpoints.

openpoints 0.1.2 is the code that PointNeXt was published with; it keeps edges as padded tensors.
Its searches are CUDA extensions that its wheel lacks, so it is given our neighbours and our
sampling, and its own grouping in torch: what is compared is what is computed of them.
"""

import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.peer_torch_pointcloud import Peer, Search, norm_names, with_parameters
from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.ops.balls import points_in_balls
from picpoint.ops.neighbours import nearest_neighbours
from picpoint.weights.public_names import public_names


def openpoints_pointnext(encoder: PointNext) -> Peer:
    """Build openpoints' PointNeXt."""
    package = on_any_device("openpoints.models.backbone.pointnext")
    package.furthest_point_sample = lambda points, count: torch.arange(count).expand(
        len(points), count
    )
    config = encoder.config
    # Each stage is its abstraction and its residual blocks; before all the stem, last the pool.
    blocks = [1, *(num_blocks + 1 for num_blocks in config.blocks), 1]
    module = package.PointNextEncoder(
        in_channels=3,
        width=config.width,
        blocks=blocks,
        strides=[1, *config.strides, 1],
        nsample=config.num_neighbours,
        radius=config.radius,
        radius_scaling=config.radius_scaling,
        sa_layers=config.abstraction_layers,
        sa_use_res=config.abstraction_layers > 1,
        expansion=config.expansion,
        aggr_args=settings(feature_type="dp_fj", reduction="max"),
        group_args=settings(NAME="ballquery", normalize_dp=True),
        conv_args=settings(order="conv-norm-act"),
        act_args=settings(act="relu"),
        norm_args=settings(norm="bn"),
    )

    def forward(points: Float[Tensor, "B N 3"]) -> PointFeatures:
        _, levels = module.forward_seg_feat(points)
        return PointFeatures(levels[config.local_stage + 1].mT, levels[-1].squeeze(-1))

    return with_parameters(
        Peer(module, forward, public_names(config), lambda _, value: value), encoder
    )


def openpoints_dgcnn(encoder: Dgcnn, search: Search = nearest_neighbours) -> Peer:
    """Build openpoints' DGCNN; its edges are [x_i, x_j - x_i], so halves are swapped."""
    package = on_any_device("openpoints.models.backbone.dgcnn")
    config = encoder.config
    module = package.DGCNN(
        in_channels=3,
        channels=config.widths[0],
        embed_dim=config.pooled_width,
        n_blocks=len(config.widths) + 1,
        k=config.num_neighbours,
        conv_args={"order": "conv-norm-act"},
    )
    module.knn.forward = lambda points: search(points, config.num_neighbours).int()
    for layer in module.backbone:
        layer.dilated_knn_graph.forward = module.knn.forward
    names = norm_names("norm", "fusion_block.1") | {"linear.weight": "fusion_block.0.weight"}
    for layer in range(len(config.widths)):
        theirs = f"backbone.{layer - 1}.gconv.nn" if layer else "head.gconv.nn"
        names[f"edge_convs.{layer}.linear.weight"] = f"{theirs}.0.weight"
        names |= norm_names(f"edge_convs.{layer}.norm", f"{theirs}.1")

    def swap(name: str, value: Tensor) -> Tensor:
        if name.startswith("edge_convs") and name.endswith("linear.weight"):
            return torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
        return value

    def forward(points: Float[Tensor, "B N 3"]) -> PointFeatures:
        local = module(points)
        pooled = torch.cat([module.maxpool(local), module.avgpool(local)], dim=1)
        return PointFeatures(local.mT, pooled)

    return with_parameters(Peer(module, forward, names, swap), encoder)


def on_any_device(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Import a module of openpoints, with its CUDA extensions replaced."""
    group: Any = importlib.import_module("openpoints.models.layers.group")
    group.ball_query = lambda radius, k, points, centres: (
        points_in_balls(points, centres, radius, k).index
    )
    graph: Any = importlib.import_module("openpoints.models.layers.graph_conv")
    group.grouping_operation = graph.grouping_operation = lambda features, index: (
        group.torch_grouping_operation(features, index.long())
    )
    return importlib.import_module(name)


def settings(**values: object) -> Any:  # noqa: ANN401 - what openpoints takes
    """Build a settings object as openpoints' constructors take it."""
    return importlib.import_module("easydict").EasyDict(values)
