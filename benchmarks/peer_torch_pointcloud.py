"""How are torch-pointcloud's encoders given the parameters of ours? By explicit maps of names.

torch-pointcloud 0.0.18 keeps the edges of a batch as one long list, with torch-geometric. Its
searches need pyg-lib, which is compiled for some platforms only, so it is given our neighbours and
our sampling: what is compared is what is computed of them.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.ops.balls import points_in_balls
from picpoint.ops.neighbours import nearest_neighbours

Search = Callable[[Float[Tensor, "B N C"], int], Int64[Tensor, "B N k"]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another package's encoder.

    Attributes:
        module: it, with its parameters.
        forward: describe clouds with it.
        names: its name of each of our parameters and buffers.
        read: what its parameter is in our layout (widths in another order, trailing 1s).
    """

    module: nn.Module
    forward: Callable[[Float[Tensor, "B N 3"]], PointFeatures]
    names: dict[str, str]
    read: Callable[[str, Tensor], Tensor]


def torch_pointcloud_dgcnn(encoder: Dgcnn, search: Search = nearest_neighbours) -> Peer:
    """Build torch-pointcloud's DGCNN; its edges are [x_i, x_j - x_i], so halves are swapped."""
    package: Any = importlib.import_module("torch_pointcloud.models.dgcnn")
    config = encoder.config

    def graph(x: Tensor, k: int, batch: Tensor, loop: bool) -> Tensor:
        assert loop
        return _edge_list(search(_by_cloud(x, batch), k), x.shape[0] // (int(batch[-1]) + 1))

    package.knn_graph = graph
    module = package.DGCNNClassification(
        in_channels=0,
        num_classes=0,
        channels=list(config.widths),
        proj_channels=config.pooled_width,
        num_neighbors=config.num_neighbours,
        act="leaky_relu",
        act_kwargs={"negative_slope": 0.2},
        global_pool=["max", "mean"],
    )
    names = norm_names("norm", "proj.norms.0.module")
    names["linear.weight"] = "proj.lins.0.weight"
    for layer in range(len(config.widths)):
        ours, theirs = f"edge_convs.{layer}", f"encoder.blocks.{layer}.conv.nn"
        names[f"{ours}.linear.weight"] = f"{theirs}.lins.0.weight"
        names |= norm_names(f"{ours}.norm", f"{theirs}.norms.0.module")

    def swap(name: str, value: Tensor) -> Tensor:
        if name.startswith("edge_convs") and name.endswith("linear.weight"):
            return torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
        return value

    def forward(points: Float[Tensor, "B N 3"]) -> PointFeatures:
        rows, batch = _as_list(points)
        local, _, batch = module.forward_features(None, rows, batch)
        pooled = module.forward_head(local, batch, pre_logits=True)
        return PointFeatures(local.unflatten(0, points.shape[:2]), pooled)

    return with_parameters(Peer(module, forward, names, swap), encoder)


def torch_pointcloud_pointnext(encoder: PointNext, repeated: bool) -> Peer:
    """Build torch-pointcloud's PointNeXt.

    Args:
        encoder: gives the shape and the parameters.
        repeated: whether the edges that only fill up a ball are there, as in the published
            network; without them BatchNorm sees other statistics, and there is less to compute.
    """
    blocks: Any = importlib.import_module("torch_pointcloud.layers.pointnext_blocks")
    models: Any = importlib.import_module("torch_pointcloud.models.pointnext")

    def leading(rows: Tensor, batch: Tensor, ratio: float, random_start: bool) -> Tensor:
        del random_start
        num_points = len(rows) // (int(batch[-1]) + 1)
        return torch.arange(len(rows)).view(-1, num_points)[:, : int(num_points * ratio)].flatten()

    def balls(
        x: Tensor, y: Tensor, r: float, batch_x: Tensor, batch_y: Tensor, max_num_neighbors: int
    ) -> tuple[Tensor, Tensor]:
        points = _by_cloud(x, batch_x)
        found = points_in_balls(points, _by_cloud(y, batch_y), r, max_num_neighbors)
        source, target = _edge_list(found.index, points.shape[1])
        if repeated:
            return target, source
        slot = torch.arange(max_num_neighbors)
        own = (slot < found.distinct[..., None]).flatten()
        return target[own], source[own]

    def graph(pos: Tensor, r: float, batch: Tensor, max_num_neighbors: int) -> Tensor:
        target, source = balls(pos, pos, r, batch, batch, max_num_neighbors)
        return torch.stack([source, target])

    blocks.fps, blocks.radius, blocks.radius_graph = leading, balls, graph
    config = encoder.config
    stages = range(len(config.strides))
    radii = [config.radius * config.radius_scaling**stage for stage in range(len(stages) + 1)]
    layers = config.abstraction_layers
    module = models.PointNeXtClassification(
        in_channels=3,
        num_classes=0,
        stem_channels=config.width,
        stem_plain_last=True,
        encoder_channels=[config.width * 2 ** (stage + 1) for stage in stages],
        encoder_depths=list(config.blocks),
        encoder_expansion=config.expansion,
        sa_layers=layers,
        sa_use_res=layers > 1,
        ratios=[1 / stride for stride in config.strides],
        radiuses=radii,
        num_neighbors=[config.num_neighbours] * len(radii),
        global_sa_channels=[encoder.pooled_width] * layers,
    )

    def forward(points: Float[Tensor, "B N 3"]) -> PointFeatures:
        rows, batch = _as_list(points)
        x, rows, batch, levels = module.forward_features(
            None, rows, batch, return_intermediates=True
        )
        levels.append({"x": x})
        pooled = module.forward_head(x, rows, batch, pre_logits=True)
        local = levels[config.local_stage]["x"]
        return PointFeatures(local.unflatten(0, (len(points), -1)), pooled)

    names = _torch_pointcloud_names(encoder)
    return with_parameters(Peer(module, forward, names, lambda _, value: value), encoder)


def _torch_pointcloud_names(encoder: PointNext) -> dict[str, str]:
    """Name our parameters as torch-pointcloud's PointNeXt does."""
    names = {f"stem.{kind}": f"stem.lins.0.{kind}" for kind in ("weight", "bias")}
    num_inner = encoder.config.abstraction_layers - 1

    def linear_and_norm(ours: tuple[str, str], theirs: str, number: int) -> None:
        names[f"{ours[0]}.weight"] = f"{theirs}.lins.{number}.weight"
        names.update(norm_names(ours[1], f"{theirs}.norms.{number}.module"))

    for stage, num_blocks in enumerate(encoder.config.blocks):
        ours, theirs = f"stages.{stage}.abstraction", f"encoder.blocks.{stage}.downsample"
        edges = f"{theirs}.convs.0.local_nn"
        linear_and_norm((f"{ours}.edge_linear.linear", f"{ours}.edge_norm"), edges, 0)
        for inner in range(num_inner):
            linear_and_norm((f"{ours}.linears.{inner}", f"{ours}.norms.{inner}"), edges, inner + 1)
        if num_inner:
            for kind in ("weight", "bias"):
                names[f"{ours}.skip.{kind}"] = f"{theirs}.skip_convs.0.lins.0.{kind}"
        for block in range(num_blocks):
            ours = f"stages.{stage}.blocks.{block}"
            theirs = f"encoder.blocks.{stage}.layers.{block}"
            edges = f"{theirs}.conv.local_nn"
            linear_and_norm((f"{ours}.edge_linear.linear", f"{ours}.edge_norm"), edges, 0)
            for number, name in enumerate(("expand", "project")):
                linear_and_norm((f"{ours}.{name}", f"{ours}.{name}_norm"), f"{theirs}.mlp", number)
    for layer in range(num_inner + 1):
        linear_and_norm((f"pool.linears.{layer}", f"pool.norms.{layer}"), "global_sa", layer)
    return names


def norm_names(ours: str, theirs: str) -> dict[str, str]:
    """Map a BatchNorm."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in kinds}


def with_parameters(peer: Peer, encoder: nn.Module) -> Peer:
    """Copy our parameters into a peer; what it has beyond ours, biases before a norm, becomes 0."""
    ours = encoder.state_dict()
    peer.module.to(next(encoder.parameters()).dtype)
    assert ours.keys() == peer.names.keys(), ours.keys() ^ peer.names.keys()
    theirs: dict[str, Any] = {
        peer.names[name]: peer.read(name, value) for name, value in ours.items()
    }
    for name, value in peer.module.state_dict().items():
        if name not in theirs:
            assert re.search(r"(lins\.\d+\.bias|num_batches_tracked)$", name), name
            theirs[name] = torch.zeros_like(value)
        theirs[name] = theirs[name].reshape(value.shape)
    peer.module.load_state_dict(theirs)
    return peer


def _as_list(points: Float[Tensor, "B N 3"]) -> tuple[Tensor, Tensor]:
    """Put all clouds into one list of points, beside the number of each point's cloud."""
    batch = torch.arange(len(points)).repeat_interleave(points.shape[1])
    return points.flatten(0, 1), batch


def _by_cloud(rows: Tensor, batch: Tensor) -> Tensor:
    """Undo `_as_list`."""
    return rows.view(int(batch[-1]) + 1, -1, rows.shape[-1])


def _edge_list(index: Int64[Tensor, "B M k"], num_points: int) -> Int64[Tensor, "2 E"]:
    """List edges as (neighbour, centre), both counted through the batch."""
    num_clouds, num_centres, k = index.shape
    source = index + torch.arange(num_clouds)[:, None, None] * num_points
    target = torch.arange(num_clouds * num_centres).repeat_interleave(k)
    return torch.stack([source.flatten(), target])
