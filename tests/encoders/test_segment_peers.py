"""Other packages' segmentation networks score points as ours do, given the same parameters.

In evaluation mode and float64: the layers' training form is held against peers in test_peers.py.
"""

import dataclasses
from typing import Any

import pytest
import torch
from peers_at_hand import needs
from torch import Tensor, nn

from benchmarks.peer_openpoints import on_any_device, settings
from benchmarks.peer_torch_pointcloud import norm_names
from picpoint.encoders import segment_dgcnn
from picpoint.encoders.segment_dgcnn import (
    DGCNN_PARTS,
    DGCNN_SCENES,
    DgcnnSegmenter,
    DgcnnSegmenterConfig,
)
from picpoint.encoders.segment_pointnext import (
    PointNextSegmenter,
    pointnext_parts,
    pointnext_scenes,
)
from picpoint.ops.interpolate import interpolate_plain, nearest_three_plain
from picpoint.ops.neighbours import nearest_neighbours
from picpoint.weights.public_names import public_names

pytestmark = pytest.mark.filterwarnings("ignore")


def _varied(network: nn.Module) -> nn.Module:
    """Draws parameters and running statistics that leave no layer idle."""
    torch.manual_seed(0)
    network = network.double().eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape))
    return network


def _load(module: nn.Module, names: dict[str, str], ours: nn.Module, swapped: str = "-") -> None:
    """Copies parameters by name; edge weights that begin with `swapped` get halves swapped."""
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    assert ours.state_dict().keys() == names.keys()
    for name, value in ours.state_dict().items():
        if name.startswith(swapped) and name.endswith((".first.weight", ".linear.weight")):
            value = torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
        state[names[name]] = value.reshape(state[names[name]].shape)
    module.double().eval().load_state_dict(state)


def _clouds() -> Tensor:
    return torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(1)).double() - 0.5


def _openpoints_names(network: PointNextSegmenter) -> dict[str, str]:
    names = {
        name: f"0.{theirs}"
        for name, theirs in public_names(network.config.encoder).items()
        if not name.startswith("pool")
    }
    for number in range(2 if network.config.num_categories else 0):
        for kind in ("weight", "bias"):
            names[f"cloud_maps.{number}.{kind}"] = f"1.global_conv{number + 1}.0.0.{kind}"
    for level in range(len(network.propagations)):
        for number in range(2):
            theirs = f"1.decoder.{level}.0.convs.{number}"
            names[f"propagations.{level}.linears.{number}.weight"] = f"{theirs}.0.weight"
            names |= norm_names(f"propagations.{level}.norms.{number}", f"{theirs}.1")
    names["hidden.weight"] = "2.head.0.0.weight"
    names |= norm_names("hidden_norm", "2.head.0.1")
    return names | {f"scores.{kind}": f"2.head.2.0.{kind}" for kind in ("weight", "bias")}


def _openpoints(network: PointNextSegmenter) -> nn.ModuleList:
    package: Any = on_any_device("openpoints.models.backbone.pointnext")
    heads: Any = on_any_device("openpoints.models.segmentation.base_seg")
    package.furthest_point_sample = lambda points, count: torch.arange(count).expand(
        len(points), count
    )
    package.three_interpolation = lambda points, centres, features: (
        interpolate_plain(features.mT, nearest_three_plain(points, centres)).mT
    )
    config = network.config
    encoder = package.PointNextEncoder(
        in_channels=config.in_channels,
        width=config.encoder.width,
        blocks=[1, *(count + 1 for count in config.encoder.blocks)],
        strides=[1, *config.encoder.strides],
        nsample=config.encoder.num_neighbours,
        radius=config.encoder.radius,
        radius_scaling=config.encoder.radius_scaling,
        sa_layers=config.encoder.abstraction_layers,
        sa_use_res=config.encoder.abstraction_layers > 1,
        aggr_args=settings(feature_type="dp_fj", reduction="max"),
        group_args=settings(NAME="ballquery", normalize_dp=True),
        conv_args=settings(order="conv-norm-act"),
        act_args=settings(act="relu"),
        norm_args=settings(norm="bn"),
    )
    widths = list(encoder.channel_list)
    if config.num_categories:
        decoder = package.PointNextPartDecoder(
            widths,
            cls_map="curvenet",
            act_args=settings(act="relu"),
            group_args=settings(NAME="ballquery"),
        )
    else:
        decoder = package.PointNextDecoder(widths)
    pools = "max,avg" if config.num_categories else None
    head = heads.SegHead(config.num_classes, config.encoder.width, global_feat=pools)
    return nn.ModuleList([encoder, decoder, head])


@pytest.mark.parametrize("kind", ["parts", "scenes"])
def test_pointnext_scores_points_as_openpoints_does(kind):
    needs("openpoints")
    config = pointnext_parts(width=8) if kind == "parts" else pointnext_scenes("b")
    shape = dataclasses.replace(
        config.encoder, width=8, radius=0.4, num_neighbours=6, strides=(2, 2, 2, 2)
    )
    network = _varied(PointNextSegmenter(dataclasses.replace(config, encoder=shape), 2))
    module = _openpoints(network)
    _load(module, _openpoints_names(network), network)
    encoder, decoder, head = module
    points = _clouds()
    features = torch.randn(2, 64, config.in_channels, dtype=torch.float64)
    positions, levels = encoder.forward_seg_feat(points, features.mT.contiguous())
    categories = torch.tensor([4, 11]) if kind == "parts" else None
    label = () if categories is None else (categories[:, None],)
    expected = head(decoder(positions, levels, *label)).mT
    found = network(points, features, categories)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def _torch_pointcloud_names(config: DgcnnSegmenterConfig) -> dict[str, str]:
    names: dict[str, str] = {}

    def block(linear: str, norm: str, mlp: str, number: int = 0) -> None:
        names[f"{linear}.weight"] = f"{mlp}.lins.{number}.weight"
        names.update(norm_names(norm, f"{mlp}.norms.{number}.module"))

    def two_maps(ours: str, mlp: str) -> None:
        for number, name in enumerate(("first", "second")):
            block(f"{ours}.{name}", f"{ours}.{name}_norm", mlp, number)

    if config.turned:
        two_maps("transformer.edge_conv", "stnet.edge_conv.nn")
        block("transformer.linears.0", "transformer.norms.0", "stnet.local_nn")
        for number in range(2):
            ours = (f"transformer.linears.{number + 1}", f"transformer.norms.{number + 1}")
            block(*ours, "stnet.global_nn", number)
        for kind in ("weight", "bias"):
            names[f"transformer.entries.{kind}"] = f"stnet.transform.{kind}"
    for layer in range(2):
        two_maps(f"edge_convs.{layer}", f"encoder.blocks.{layer}.conv.nn")
    block("edge_convs.2.linear", "edge_convs.2.norm", "encoder.blocks.2.conv.nn")
    block("linear", "norm", "proj")
    if config.num_categories:
        block("category", "category_norm", "cat_embed")
    for number in range(len(config.hidden_widths)):
        block(f"linears.{number}", f"norms.{number}", "head", number)
    names["scores.weight"] = f"head.lins.{len(config.hidden_widths)}.weight"
    return names


@pytest.mark.parametrize("published", [DGCNN_PARTS, DGCNN_SCENES], ids=["parts", "scenes"])
def test_dgcnn_scores_points_as_torch_pointcloud_does(published, monkeypatch):
    needs("torch_pointcloud")
    from torch_pointcloud.layers import tnet
    from torch_pointcloud.models import dgcnn

    config = dataclasses.replace(
        published, num_neighbours=6, width=8, pooled_width=16, hidden_widths=(16, 8)
    )
    network = _varied(DgcnnSegmenter(config, 2))
    found: list[Tensor] = []

    def record(points: Tensor, k: int) -> Tensor:
        found.append(nearest_neighbours(points, k))
        return found[-1]

    monkeypatch.setattr(segment_dgcnn, "nearest_neighbours", record)
    points, categories = _clouds(), torch.tensor([4, 11]) if config.num_categories else None
    inputs = points if config.turned else torch.cat([points.flip(1), -points, points], dim=-1)
    ours = network(inputs, categories)

    def edges(*_: object, **__: object) -> Tensor:
        index = found.pop(0) + torch.tensor([0, 64])[:, None, None]
        return torch.stack([index.flatten(), torch.arange(128).repeat_interleave(6)])

    monkeypatch.setattr(dgcnn, "knn_graph", edges)
    monkeypatch.setattr(tnet, "knn", lambda *_, **__: edges().flip(0))
    shape = {
        "channels": [[8, 8], [8, 8], [8]],
        "proj_channels": 16,
        "head_channels": [16, 8],
        "num_neighbors": 6,
        "act": "leaky_relu",
        "act_kwargs": {"negative_slope": 0.2},
    }
    batch = torch.arange(2).repeat_interleave(64)
    rows = inputs.flatten(0, 1)
    if categories is not None:
        module = dgcnn.DGCNNPartSegmentation(
            0,
            50,
            num_categories=16,
            cat_embed_channels=8,
            stnet_edge_channels=[64, 128],
            stnet_local_channels=[1024],
            stnet_global_channels=[512, 256],
            **shape,
        )
        _load(module, _torch_pointcloud_names(config), network, "")
        module.stnet.transform.bias.data -= torch.eye(3).flatten()  # it adds the identity itself
        one_hot = nn.functional.one_hot(categories, 16).double()
        expected = module(None, rows, batch, one_hot)
    else:
        module = dgcnn.DGCNNSegmentation(6, 13, **shape)
        _load(module, _torch_pointcloud_names(config), network, "edge_convs")
        expected = module(rows[:, :6], rows[:, 6:], batch)
    torch.testing.assert_close(ours.flatten(0, 1), expected, rtol=1e-9, atol=1e-9)
    assert not found
