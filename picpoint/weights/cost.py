"""How many parameters has an encoder, and how many FLOPs does a cloud take? Counted from its shape.

Counted are linear maps, 2 FLOPs for each product and its addition; searches, norms and maxima are
not, as in published figures. The usual form maps every edge; ours maps points where it can, which
torch's own counter does not see (numba's kernels are no operators of torch). So both are counted
here by hand, and tests hold the usual form against torch.utils.flop_counter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import floordiv

import torch
from jaxtyping import Float
from torch import Tensor, nn

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.encoders.segment_dgcnn import DgcnnSegmenter
from picpoint.encoders.segment_pointnext import PointNextSegmenter
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.ops.balls import points_in_balls


@dataclass(frozen=True, slots=True)
class EncoderCost:
    """What an encoder costs, without any head.

    Attributes:
        parameters: numbers that training moves.
        usual_flops: of the usual, published form, for one cloud forward.
        our_flops: of ours; what is mapped for the sake of BatchNorm's statistics included.
    """

    parameters: int
    usual_flops: int
    our_flops: int


@dataclass(frozen=True, slots=True)
class PublishedCost:
    """What a published method's backbone costs: millions of parameters, 10^9 FLOPs a cloud."""

    name: str
    parameters_m: str
    gflops: str


# As their papers have them; the transformers of Point-BERT, Point-MAE and ACT are the same.
TRANSFORMERS = (
    PublishedCost("Point-BERT, Point-MAE, ACT", "22.1", "4.8"),
    PublishedCost("Point-M2AE, I2P-MAE", "12.9-15.3", "3.6"),
    PublishedCost("ReCon", "43.6", "5.3"),
)


def encoder_cost(
    config: PointEncoderConfig, num_points: int, distinct: Sequence[float] | None = None
) -> EncoderCost:
    """Count an encoder's parameters, and the FLOPs of a cloud.

    Args:
        config: its shape.
        num_points: points of the cloud.
        distinct: how many points the balls of each stage hold on average, as `points_per_ball`
            gives them; None for full balls, the most that ours can take.
    """
    with torch.device("meta"):  # shapes without numbers
        encoder = build_point_encoder(config, ghost_batch=1)
    match encoder:
        case Dgcnn():
            usual, ours = _dgcnn_products(encoder.config, num_points)
        case PointNext():
            usual, ours = _pointnext_products(encoder.config, num_points, distinct)
    return EncoderCost(count_parameters(encoder), 2 * usual, 2 * ours)


def count_parameters(module: nn.Module) -> int:
    """Count what training moves."""
    return sum(parameter.numel() for parameter in module.parameters())


def saved_bytes(encoder: nn.Module, points: Float[Tensor, "B N 3"]) -> int:
    """Measure what a forward pass in training keeps for the backward pass, in bytes a cloud.

    Each storage counts once, parameters not at all.
    """
    parameters = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, Tensor] = {}  # holding them, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder.train()(points)
    del features
    return sum(each.untyped_storage().nbytes() for each in kept.values()) // len(points)


def segmenter_flops(segmenter: DgcnnSegmenter | PointNextSegmenter, num_points: int) -> int:
    """Count the FLOPs of a network that labels points, of one cloud forward, in the usual form.

    Args:
        segmenter: for parts or scenes; may be on the meta device.
        num_points: points of the cloud.
    """
    match segmenter:
        case DgcnnSegmenter():
            edges = num_points * segmenter.config.num_neighbours
            convs, maps = list(segmenter.edge_convs), [segmenter.linear, *segmenter.linears]
            once = [segmenter.category] if segmenter.config.num_categories else []
            if (turn := segmenter.transformer) is not None:
                convs.append(turn.edge_conv)
                maps.append(turn.linears[0])
                once += [*list(turn.linears)[1:], turn.entries]
            products = edges * sum(map(_matrix_size, convs))
            products += num_points * sum(map(_matrix_size, [*maps, segmenter.scores]))
            return 2 * (products + sum(map(_matrix_size, once)))
        case PointNextSegmenter():
            config = segmenter.config.encoder
            whole, _ = _pointnext_products(config, num_points, None)
            stem, pool = num_points * 3 * config.width, _pool_products(config, num_points)
            points = list(accumulate((num_points, *config.strides), floordiv))
            products = (
                whole
                - stem
                - pool
                + num_points
                * sum(map(_matrix_size, (segmenter.stem, segmenter.hidden, segmenter.scores)))
            )
            for count, layer in zip(points, segmenter.propagations, strict=False):
                products += count * _matrix_size(layer)
            if segmenter.config.num_categories:
                for count, layer in zip(points[-2:], segmenter.cloud_maps, strict=True):
                    products += count * _matrix_size(layer)
            return 2 * products


def _matrix_size(module: nn.Module) -> int:
    """Count the products of a module's linear maps, of one row each."""
    return sum(each.weight.numel() for each in module.modules() if isinstance(each, nn.Linear))


def _dgcnn_products(config: DgcnnConfig, num_points: int) -> tuple[int, int]:
    """Count products of the usual form, and of ours."""
    usual = ours = num_points * sum(config.widths) * config.pooled_width
    for before, after in zip((3, *config.widths[:-1]), config.widths, strict=True):
        point = num_points * 2 * before * after  # near and own, half each
        usual += config.num_neighbours * point
        ours += point
    return usual, ours


def points_per_ball(config: PointNextConfig, points: Float[Tensor, "B N 3"]) -> tuple[float, ...]:
    """Count how many points the balls of each stage's centres hold, on average."""
    radius, counts = config.radius, list[float]()
    for stride in config.strides:
        centres = points[:, : points.shape[1] // stride]
        found = points_in_balls(points, centres, radius, config.num_neighbours)
        counts.append(float(found.distinct.double().mean()))
        points, radius = centres, radius * config.radius_scaling
    return tuple(counts)


def _pointnext_products(
    config: PointNextConfig, num_points: int, distinct: Sequence[float] | None
) -> tuple[int, int]:
    """Count products of the usual form, and of ours."""
    usual = ours = num_points * 3 * config.width
    pool = _pool_products(config, num_points)
    width, k = config.width, config.num_neighbours
    distinct = [k] * len(config.strides) if distinct is None else distinct
    for stride, num_blocks, mapped in zip(config.strides, config.blocks, distinct, strict=True):
        num_centres, after = num_points // stride, 2 * width
        inner = after if config.abstraction_layers == 1 else width
        edges = num_centres * k
        usual += edges * (width + 3) * inner
        ours += num_points * (width + 3) * inner + num_centres * 3 * inner
        if config.abstraction_layers > 1:
            between = (config.abstraction_layers - 2) * inner * inner
            usual += edges * (between + inner * after) + num_centres * width * after
            # The moments of the last map: products of the hidden features with one another.
            ours += edges * between + num_centres * width * after
            ours += round(num_centres * mapped * (inner * after + inner * inner))
        width, num_points = after, num_centres
        point = num_points * 2 * config.expansion * width * width
        usual += num_blocks * (num_points * k * (width + 3) * width + point)
        ours += num_blocks * (num_points * (width + 6) * width + point)
    return usual + pool, ours + pool


def _pool_products(config: PointNextConfig, num_points: int) -> int:
    """Count products of the last maximum, over the points that the stages leave of a cloud."""
    width = config.width * 2 ** len(config.strides)
    inner = (width + 3) + (config.abstraction_layers - 1) * width
    return num_points // prod(config.strides) * inner * width
