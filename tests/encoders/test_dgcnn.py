import dataclasses

import pytest
import torch
from torch import Tensor

from benchmarks.plain_dgcnn import plain_dgcnn, plain_edge_conv
from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig, EdgeConv
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.ops.neighbours import nearest_neighbours

SMALL = DgcnnConfig(widths=(8, 8, 16, 16), pooled_width=32, num_neighbours=6)


def _encoder(config: DgcnnConfig = SMALL, dtype: torch.dtype = torch.float64) -> Dgcnn:
    """An encoder whose BatchNorm scales are of both signs."""
    torch.manual_seed(0)
    encoder = Dgcnn(config, ghost_batch=2)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, GhostBatchNorm):
                module.weight.normal_()
                module.bias.normal_()
    return encoder.to(dtype)


def _clouds(
    num_clouds: int = 4, num_points: int = 64, dtype: torch.dtype = torch.float64
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num_clouds, num_points, 3, generator=generator, dtype=dtype) - 0.5


def _gradients(features: PointFeatures, encoder: Dgcnn, valid: Tensor | None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros((), dtype=features.local.dtype)
    for part in (features.local, features.pooled):
        weight = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part)
        rows = slice(None) if valid is None else valid
        total = total + (part * weight)[rows].sum()
    return list(torch.autograd.grad(total, list(encoder.parameters())))


def test_the_published_encoder_has_617856_parameters():
    encoder = Dgcnn(DgcnnConfig(), ghost_batch=2)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 617_856
    assert (encoder.local_width, encoder.pooled_width) == (1024, 2048)
    assert encoder.num_local(1024) == 1024


@pytest.mark.parametrize("valid", [None, [True, True, False, True]])
@pytest.mark.parametrize("training", [True, False])
def test_dgcnn_equals_the_plain_form_in_value_and_gradient(training, valid):
    valid = None if valid is None else torch.tensor(valid)
    rows = slice(None) if valid is None else valid
    encoder, points = _encoder(), _clouds()
    for _ in range(2):
        encoder(points)
        update_running_statistics(encoder)
    encoder.train(training)
    ours, plain = encoder(points, valid), plain_dgcnn(encoder, points, valid)
    torch.testing.assert_close(ours.local[rows], plain.local[rows])
    torch.testing.assert_close(ours.pooled[rows], plain.pooled[rows])
    pairs = zip(_gradients(ours, encoder, valid), _gradients(plain, encoder, valid), strict=True)
    for mine, oracle in pairs:
        torch.testing.assert_close(mine, oracle, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_float32_edge_conv_is_as_near_to_the_truth_as_the_plain_form_is(offset):
    """The cheap form subtracts large numbers where features lie far from the origin."""
    torch.manual_seed(0)
    exact = EdgeConv(16, 24, ghost_batch=2).double()
    torch.nn.init.normal_(exact.norm.weight)
    features = offset + _clouds(4, 64).repeat(1, 1, 6)[..., :16] + 0.1 * torch.randn(4, 64, 16)
    index = nearest_neighbours(features, 8)
    upstream = torch.randn(4, 64, 24, dtype=torch.float64)

    def run(form: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        layer = EdgeConv(16, 24, ghost_batch=2)
        layer.load_state_dict(exact.state_dict())
        layer, x = layer.to(dtype), features.to(dtype).requires_grad_()
        y = layer(x, index) if form == "ours" else plain_edge_conv(layer, x, index)
        return y, *torch.autograd.grad(y, (x, *layer.parameters()), upstream.to(dtype))

    truth = run("plain", torch.float64)
    for mine, plain, oracle in zip(
        run("ours", torch.float32), run("plain", torch.float32), truth, strict=True
    ):
        scale = oracle.abs().max()
        mine_off, plain_off = ((x - oracle).abs().mean() / scale for x in (mine, plain))
        assert mine_off < 3 * plain_off + 1e-6


def test_shuffled_points_shuffle_local_features_and_leave_pooled_ones():
    encoder, points = _encoder(), _clouds()
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(3))
    straight, shuffled = encoder(points), encoder(points[:, order])
    torch.testing.assert_close(shuffled.local, straight.local[:, order])
    torch.testing.assert_close(shuffled.pooled, straight.pooled)


@pytest.mark.parametrize("poison", [7.0, float("nan")])
def test_slots_without_a_shape_change_nothing_for_the_others(poison):
    encoder, points = _encoder(), _clouds(4)
    valid = torch.tensor([True, False, True, True])
    spoiled = points.clone()
    spoiled[1] = poison
    states = []
    for clouds in (points, spoiled):
        features = encoder(clouds, valid)
        update_running_statistics(encoder)
        states.append((features, _gradients(features, encoder, valid)))
    (clean, clean_gradients), (dirty, dirty_gradients) = states
    assert torch.equal(clean.local[valid], dirty.local[valid])
    assert torch.equal(clean.pooled[valid], dirty.pooled[valid])
    assert dirty.local.isfinite().all()
    for mine, oracle in zip(dirty_gradients, clean_gradients, strict=True):
        assert torch.equal(mine, oracle)
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


def test_running_statistics_are_those_of_all_edges():
    config = DgcnnConfig(widths=(8,), pooled_width=16, num_neighbours=6)
    ours, plain, points = _encoder(config), _encoder(config), _clouds()
    ours(points)
    plain_dgcnn(plain, points)
    for encoder in (ours, plain):
        update_running_statistics(encoder)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_every_parameter_gets_a_gradient():
    encoder = _encoder()
    features = encoder(_clouds())
    (features.local.square().mean() + features.pooled.mean()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_bfloat16_autocast_stays_close_to_float32():
    encoder, points = _encoder(dtype=torch.float32), _clouds(dtype=torch.float32)
    exact = encoder(points)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(points)
    assert rounded.local.dtype == torch.float32
    # One product in bfloat16: 2^-8 of its operands, some of which cancel.
    torch.testing.assert_close(rounded.local, exact.local, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "change", [{"widths": ()}, {"widths": (8, 0)}, {"pooled_width": 0}, {"num_neighbours": 0}]
)
def test_an_impossible_shape_is_refused(change):
    with pytest.raises(ValueError, match=rf"point_encoder\.{next(iter(change))}=.* above 0"):
        dataclasses.replace(SMALL, **change)
