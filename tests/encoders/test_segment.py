import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from picpoint.encoders.pointnext import POINTNEXT_S, PointNext
from picpoint.encoders.segment_dgcnn import (
    DGCNN_PARTS,
    DGCNN_SCENES,
    DgcnnSegmenter,
    SpatialTransformer,
    TwoMapEdgeConv,
)
from picpoint.encoders.segment_pointnext import (
    PointNextSegmenter,
    pointnext_parts,
    pointnext_scenes,
)
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.neighbours import nearest_neighbours

SMALL_PARTS, SMALL_SCENES = (
    dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, radius=0.4, num_neighbours=6, strides=(2,) * 4),
    )
    for config in (pointnext_parts(width=4), pointnext_scenes("s"))
)
KINDS = {
    "pointnext_parts": lambda: PointNextSegmenter(SMALL_PARTS, 2),
    "pointnext_scenes": lambda: PointNextSegmenter(SMALL_SCENES, 2),
    "dgcnn_parts": lambda: DgcnnSegmenter(
        dataclasses.replace(DGCNN_PARTS, num_neighbours=6, width=8, pooled_width=16), 2
    ),
    "dgcnn_scenes": lambda: DgcnnSegmenter(
        dataclasses.replace(DGCNN_SCENES, num_neighbours=6, width=8, pooled_width=16), 2
    ),
}


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        # Published in millions: 0.8, 3.8, 7.1, 41.6 for scenes; 1.0 and 3.7 for parts.
        (lambda: PointNextSegmenter(pointnext_scenes("s"), 2), 792_237),
        (lambda: PointNextSegmenter(pointnext_scenes("b"), 2), 3_827_853),
        (lambda: PointNextSegmenter(pointnext_scenes("l"), 2), 7_125_069),
        (lambda: PointNextSegmenter(pointnext_scenes("xl"), 2), 41_576_461),
        (lambda: PointNextSegmenter(pointnext_parts(), 2), 981_842),
        (lambda: PointNextSegmenter(pointnext_parts(64), 2), 3_722_674),
        # Those of the public code.
        (lambda: DgcnnSegmenter(DGCNN_PARTS, 2), 1_460_361),
        (lambda: DgcnnSegmenter(DGCNN_SCENES, 2), 983_552),
    ],
)
def test_segmenters_have_the_published_parameters(build, parameters):
    assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def _inputs(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(4, 64, 3, generator=generator, dtype=torch.float64) - 0.5
    categories = torch.tensor([3, 0, 7, 15])
    match kind:
        case "pointnext_parts":
            features = torch.cat([points, points, points[..., :1]], dim=-1)
            return {"points": points, "features": features, "categories": categories}
        case "pointnext_scenes":
            return {"points": points, "features": torch.cat([points, points[..., 1:2]], dim=-1)}
        case "dgcnn_parts":
            return {"points": points, "categories": categories}
        case _:
            return {"points": torch.cat([points, -points, points], dim=-1)}


def _network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    network = KINDS[kind]().double()
    for module in network.modules():
        if isinstance(module, GhostBatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        if isinstance(module, SpatialTransformer):  # starts at 0, and lets no gradient through
            nn.init.normal_(module.entries.weight, std=0.01)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind):
    network = _network(kind)
    network(**_inputs(kind)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("num_points", [16, 33])
def test_a_crop_that_leaves_one_centre_or_two_is_scored_and_learnt_from(num_points):
    network, inputs = _network("pointnext_scenes"), _inputs("pointnext_scenes")
    scores = network(**{name: value[:, :num_points] for name, value in inputs.items()})
    assert scores.shape == (4, num_points, 13)
    scores.square().mean().backward()
    (last,) = network.propagations[-1].linears[0].parameters()
    assert last.grad is not None
    assert last.grad.isfinite().all()
    assert last.grad.abs().max() > 0


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_trains_and_scores_as_float32_does_but_for_rounding(kind, precision):
    network = _network(kind).float()
    inputs = {
        name: value.float() if value.is_floating_point() else value
        for name, value in _inputs(kind).items()
    }
    with torch.autocast("cpu", precision):
        network(**inputs).float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    network.eval()
    expected = network(**inputs)
    with torch.autocast("cpu", precision):
        found = network(**inputs)
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_slots_without_a_cloud_change_nothing_for_the_others(kind):
    network, inputs = _network(kind), _inputs(kind)
    valid = torch.tensor([True, False, True, True])
    spoiled = inputs | {
        name: torch.where(valid[:, None, None], inputs[name], torch.nan)
        for name in ("points", "features")
        if name in inputs
    }
    scores = []
    for clouds in (inputs, spoiled):
        torch.manual_seed(2)  # the same features are dropped
        scores.append(network(**clouds, valid=valid))
    assert torch.equal(scores[0][valid], scores[1][valid])
    assert scores[1].isfinite().all()


@pytest.mark.parametrize("valid", [None, [True, False, True, True]])
def test_two_maps_of_an_edge_equal_the_plain_form_in_value_and_gradient(valid):
    torch.manual_seed(0)
    layer = TwoMapEdgeConv(5, 8, 12, ghost_batch=2).double()
    for norm in (layer.first_norm, layer.second_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    features = torch.randn(4, 30, 5, dtype=torch.float64, requires_grad=True)
    index = nearest_neighbours(features, 6)
    mask = None if valid is None else torch.tensor(valid)[:, None, None].expand(4, 30, 6)
    rows = slice(None) if valid is None else torch.tensor(valid)
    own = features[:, :, None].expand(-1, -1, 6, -1)
    near = features[torch.arange(4)[:, None, None], index]
    edges = layer.first_norm(layer.first(torch.cat([near - own, own], dim=-1)), mask)
    edges = layer.second_norm(layer.second(functional.leaky_relu(edges, 0.2)), mask)
    plain = functional.leaky_relu(edges, 0.2).amax(dim=2)[rows]
    ours = layer(features, index, None if valid is None else torch.tensor(valid))[rows]
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(plain.shape, dtype=torch.float64)
    inputs = [features, *layer.parameters()]
    gradients = (torch.autograd.grad(x, inputs, upstream) for x in (ours, plain))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_a_fresh_spatial_transformer_turns_nothing():
    network = KINDS["dgcnn_parts"]()
    matrix = network.transformer(torch.rand(2, 32, 3))
    torch.testing.assert_close(matrix, torch.eye(3).expand(2, -1, -1))


def test_positions_are_turned_in_their_own_precision_under_autocast():
    network, points = KINDS["dgcnn_parts"](), torch.rand(2, 32, 3)
    turned = list[Tensor]()
    network.edge_convs[0].register_forward_pre_hook(lambda _, given: turned.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16):
        network(points, torch.tensor([0, 1]))
    assert torch.equal(turned[0], points)  # a fresh matrix is the identity


def test_stages_of_the_encoder_carry_over_by_name():
    encoder = PointNext(dataclasses.replace(POINTNEXT_S, strides=(4,) * 4), 2)
    network = PointNextSegmenter(pointnext_scenes("s"), 2)
    carried = {name for name in encoder.state_dict() if name.startswith("stages.")}
    own = network.state_dict()
    assert carried <= own.keys()
    assert all(own[name].shape == encoder.state_dict()[name].shape for name in carried)
