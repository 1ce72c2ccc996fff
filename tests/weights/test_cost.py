import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_dgcnn import plain_dgcnn
from benchmarks.plain_pointnext import plain_pointnext
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_B, POINTNEXT_S, POINTNEXT_XL, PointNext
from picpoint.encoders.segment_dgcnn import DGCNN_PARTS, DGCNN_SCENES, DgcnnSegmenter
from picpoint.encoders.segment_pointnext import (
    PointNextSegmenter,
    pointnext_parts,
    pointnext_scenes,
)
from picpoint.weights.cost import encoder_cost, points_per_ball, saved_bytes, segmenter_flops


@pytest.mark.parametrize(
    "config",
    [
        POINTNEXT_S,
        POINTNEXT_B,
        dataclasses.replace(POINTNEXT_S, abstraction_layers=3, width=16),
    ],
)
def test_the_usual_pointnext_counts_what_torch_counts(config):
    encoder = PointNext(config, ghost_batch=2).eval()
    with FlopCounterMode(display=False) as counter:
        plain_pointnext(encoder, torch.rand(2, 256, 3))
    assert counter.get_total_flops() == 2 * encoder_cost(config, 256).usual_flops


def test_the_usual_dgcnn_counts_what_torch_counts():
    config = DgcnnConfig(num_neighbours=5)
    encoder = Dgcnn(config, ghost_batch=2).eval()
    with FlopCounterMode(display=False) as counter:
        plain_dgcnn(encoder, torch.rand(2, 128, 3))
    # Its search multiplies points with one another in each layer, which is no part of the network.
    searched = 2 * sum(2 * 128 * 128 * width for width in (3, *config.widths[:-1]))
    assert counter.get_total_flops() - searched == 2 * encoder_cost(config, 128).usual_flops


def test_one_layer_of_each_kind_counted_by_hand():
    """Two stages of one centre each, written out: stem, abstraction, residual block, pool."""
    config = dataclasses.replace(
        POINTNEXT_B, width=2, strides=(4,), blocks=(1,), num_neighbours=3, local_stage=1
    )
    stem = 8 * 3 * 2  # 8 points
    abstraction = 2 * 3 * (2 + 3) * 4  # 2 centres, 3 neighbours, 5 -> 4
    block = 2 * 3 * (4 + 3) * 4 + 2 * (4 * 16 + 16 * 4)  # edges 7 -> 4, then 4 -> 16 -> 4
    pool = 2 * (4 + 3) * 4
    cost = encoder_cost(config, 8)
    assert cost.usual_flops == 2 * (stem + abstraction + block + pool)
    near, own = 8 * (2 + 3) * 4 + 2 * (4 + 3) * 4, (2 + 2) * 3 * 4
    assert cost.our_flops == 2 * (stem + near + own + 2 * (4 * 16 + 16 * 4) + pool)


def test_networks_of_parts_count_what_each_map_sees():
    """Every linear map of the usual form, with the rows that it maps, written out."""
    edges = 2048 * 40
    rows = [
        (6 * 64, 2 * edges),  # transformer, first layer
        (64 * 128, edges),
        (128 * 64, 2 * edges),  # second and third layer
        (64 * 64, 2 * edges),
        (128 * 1024, 2048),
        (192 * 1024, 2048),
        (1280 * 256, 2048),
        (256 * 256, 2048),
        (256 * 128, 2048),
        (128 * 50, 2048),
        (1024 * 512, 1),
        (512 * 256, 1),
        (256 * 9, 1),
        (16 * 64, 1),
    ]
    with torch.device("meta"):
        dgcnn = DgcnnSegmenter(DGCNN_PARTS, 1)
        pointnext = PointNextSegmenter(pointnext_parts(), 1)
    assert segmenter_flops(dgcnn, 2048) == 2 * sum(size * seen for size, seen in rows)
    stages = sum(
        32 * points // 2 * ((width + 3) * width + width * width + width * 2 * width)
        + points // 2 * width * 2 * width
        for points, width in ((2048, 32), (1024, 64), (512, 128), (256, 256))
    )
    propagations = sum(
        points * ((width + 2 * width + beside) * width + width * width)
        for points, width, beside in (
            (2048, 32, 64 + 128 + 16),
            (1024, 64, 0),
            (512, 128, 0),
            (256, 256, 0),
        )
    )
    clouds = 256 * 256 * 64 + 128 * 512 * 128
    points = 2048 * (7 * 32 + 96 * 96 + 96 * 50)
    assert segmenter_flops(pointnext, 2048) == 2 * (stages + propagations + clouds + points)


def test_the_network_of_scenes_costs_what_is_published():
    """PointNeXt-S, 15,000 points: 0.79 M and 3.64 GFLOPs (arXiv:2206.04670, table 1)."""
    with torch.device("meta"):
        network = PointNextSegmenter(pointnext_scenes("s"), 1)
        dgcnn = DgcnnSegmenter(DGCNN_SCENES, 1)
    # Published counts have the norms, too.
    assert segmenter_flops(network, 15000) / 1e9 == pytest.approx(3.64, rel=0.02)
    edges = 4096 * 20
    rows = [
        (18 * 64, edges),
        (64 * 64, 2 * edges),
        (128 * 64, 2 * edges),
        (192 * 1024, 4096),
        (1216 * 512, 4096),
        (512 * 256, 4096),
        (256 * 13, 4096),
    ]
    counted = segmenter_flops(dgcnn, 4096)
    assert counted == 2 * sum(size * seen for size, seen in rows)


@pytest.mark.parametrize(
    ("config", "parameters", "gflops"),
    [(DgcnnConfig(), 617_856, 4.8), (POINTNEXT_S, 968_480, 1.6)],
)
def test_costs_are_the_published_ones(config, parameters, gflops):
    cost = encoder_cost(config, 1024)
    assert cost.parameters == parameters
    assert round(cost.usual_flops / 1e9, 1) == gflops


def test_ours_are_fewer_the_emptier_the_balls_are():
    points = torch.nn.functional.normalize(torch.randn(2, 1024, 3), dim=-1)
    distinct = points_per_ball(POINTNEXT_S, points)
    assert all(1 < count < 32 for count in distinct)
    cost = encoder_cost(POINTNEXT_S, 1024, distinct)
    assert cost.our_flops < encoder_cost(POINTNEXT_S, 1024).our_flops / 2
    assert encoder_cost(DgcnnConfig(), 1024).our_flops < cost.usual_flops


def test_the_largest_has_the_most():
    assert encoder_cost(POINTNEXT_XL, 1024).parameters > encoder_cost(POINTNEXT_B, 1024).parameters


def test_what_is_kept_for_the_backward_pass_is_counted_once():
    layer = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.ReLU())
    points = torch.randn(2, 7, 3)
    # Of a cloud: its points for the gradient of the weight, and what each ReLU gave.
    assert saved_bytes(layer, points) == 4 * (7 * 3 + 2 * 7 * 5)
    layer = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.ReLU(inplace=True))
    assert saved_bytes(layer, points) == 4 * (7 * 3 + 7 * 5)
