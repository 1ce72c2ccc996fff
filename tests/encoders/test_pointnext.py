import dataclasses
import statistics

import pytest
import torch
from torch import Tensor

from benchmarks.plain_pointnext import plain_pointnext
from picpoint.batch import PointFeatures
from picpoint.encoders.pointnext import (
    POINTNEXT_B,
    POINTNEXT_L,
    POINTNEXT_S,
    POINTNEXT_XL,
    PointNext,
    PointNextConfig,
)
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.ops.sampling import farthest_points, take_rows

# One of each kind: two maps of an edge, one with residual blocks, three maps.
KINDS = {
    "s": PointNextConfig(width=4, radius=0.5, num_neighbours=6),
    "b": PointNextConfig(
        "pointnext_b",
        width=4,
        radius=0.5,
        num_neighbours=6,
        blocks=(1, 2, 0, 1),
        abstraction_layers=1,
    ),
    "parts": PointNextConfig(width=4, radius=0.5, num_neighbours=6, abstraction_layers=3),
}
SMALL = KINDS["s"]


def _encoder(
    config: PointNextConfig = SMALL, dtype: torch.dtype = torch.float64, seed: int = 0
) -> PointNext:
    """An encoder whose BatchNorm scales are of both signs."""
    torch.manual_seed(seed)
    encoder = PointNext(config, ghost_batch=2)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, GhostBatchNorm):
                module.weight.normal_()
                module.bias.normal_()
    return encoder.to(dtype)


def _clouds(
    num_clouds: int = 4, num_points: int = 64, dtype: torch.dtype = torch.float64, seed: int = 1
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_clouds, num_points, 3, generator=generator, dtype=dtype) - 0.5


def _gradients(features: PointFeatures, encoder: PointNext, valid: Tensor | None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros((), dtype=features.local.dtype)
    for part in (features.local, features.pooled):
        weight = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part)
        rows = slice(None) if valid is None else valid
        total = total + (part * weight)[rows].sum()
    return list(torch.autograd.grad(total, list(encoder.parameters())))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (POINTNEXT_S, 968_480),
        # Their classification encoders are unpublished; those for scenes are (test_segment.py).
        (POINTNEXT_B, None),
        (POINTNEXT_L, None),
        (POINTNEXT_XL, None),
    ],
)
def test_published_encoders_have_their_widths_and_parameters(config, parameters):
    encoder = PointNext(config, ghost_batch=2)
    if parameters is not None:
        assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert (encoder.local_width, encoder.pooled_width) == (4 * config.width, 16 * config.width)
    assert encoder.num_local(1024) == 256


@pytest.mark.parametrize("valid", [None, [True, True, False, True]])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_pointnext_equals_the_plain_form_in_value_and_gradient(kind, training, valid):
    valid = None if valid is None else torch.tensor(valid)
    rows = slice(None) if valid is None else valid
    encoder, points = _encoder(KINDS[kind]), _clouds()
    for _ in range(2):
        encoder(points)
        update_running_statistics(encoder)
    encoder.train(training)
    ours, plain = encoder(points, valid), plain_pointnext(encoder, points, valid)
    torch.testing.assert_close(ours.local[rows], plain.local[rows], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.pooled[rows], plain.pooled[rows], rtol=1e-9, atol=1e-9)
    pairs = zip(_gradients(ours, encoder, valid), _gradients(plain, encoder, valid), strict=True)
    for mine, oracle in pairs:
        torch.testing.assert_close(mine, oracle, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_within_1e_4_of_the_truth_or_as_near_as_the_plain_form_is(kind):
    """Gradients jump where rounding moves a number across a ReLU's or a maximum's kink.

    Which of the forms meets one is chance and differs from processor to processor, so the median
    over some draws counts. In nets of this size BatchNorm amplifies rounding, in both forms.
    """
    off = [_float32_off(KINDS[kind], seed) for seed in range(9)]
    assert max(each["values"] for each in off) < 1e-4
    ours, plain = (statistics.median(each[form] for each in off) for form in ("ours", "plain"))
    assert ours < max(1e-4, 2 * plain)


def _float32_off(config: PointNextConfig, seed: int) -> dict[str, float]:
    """Tell how far values, and the gradients of either form, are off; mean over the largest."""
    points = _clouds(seed=seed)
    exact, single = _encoder(config, seed=seed), _encoder(config, torch.float32, seed)
    forms = {
        "ours": (single(points.float()), single),
        "plain": (plain_pointnext(single, points.float()), single),
        "truth": (plain_pointnext(exact, points), exact),
    }
    values = {form: [each.local, each.pooled] for form, (each, _) in forms.items()}
    slopes = {form: _gradients(each, encoder, None) for form, (each, encoder) in forms.items()}
    largest = max(slope.abs().max() for slope in slopes["truth"])
    off = {form: _most_off(slopes[form], slopes["truth"], largest) for form in ("ours", "plain")}
    return off | {"values": _most_off(values["ours"], values["truth"], torch.zeros(()))}


def _most_off(found: list[Tensor], truths: list[Tensor], largest: Tensor) -> float:
    return max(
        ((each - truth).abs().mean() / max(truth.abs().max(), 1e-3 * largest)).item()
        for each, truth in zip(found, truths, strict=True)
    )


def test_running_statistics_are_those_of_all_edges():
    for config in KINDS.values():
        ours, plain, points = _encoder(config), _encoder(config), _clouds()
        ours(points)
        plain_pointnext(plain, points)
        for encoder in (ours, plain):
            update_running_statistics(encoder)
        torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_each_ghost_batch_is_described_as_if_it_were_alone():
    """So the number of ranks, each with some ghosts, changes nothing."""
    encoder, points = _encoder(), _clouds(6)
    together = encoder(points)
    for start in range(0, 6, 2):
        alone = encoder(points[start : start + 2])
        torch.testing.assert_close(alone.pooled, together.pooled[start : start + 2])
        torch.testing.assert_close(alone.local, together.local[start : start + 2])


def test_centres_are_the_leading_points():
    """Local features of the first M points: moving a point moves those of its neighbours only."""
    encoder, points = _encoder().eval(), _clouds(1)
    moved = points.clone()
    moved[0, 2] += 1e-3
    changed = (encoder(moved).local != encoder(points).local).any(dim=-1)[0]
    assert changed.shape == (16,)
    assert changed[2]
    assert not changed.all()


def test_shuffled_points_are_described_alike_if_brought_into_order():
    encoder, points = _encoder(dataclasses.replace(SMALL, sampling="farthest")), _clouds()
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(3))
    straight, shuffled = encoder(points), encoder(points[:, order])
    torch.testing.assert_close(shuffled.pooled, straight.pooled)
    torch.testing.assert_close(shuffled.local, straight.local)


def test_a_stored_order_is_taken_as_it_is():
    points = _clouds(2, dtype=torch.float32)
    ordered = take_rows(points, farthest_points(points, points.shape[1]))
    assert not torch.equal(ordered, points)
    stored = _encoder(dtype=torch.float32)
    sorted_anew = _encoder(dataclasses.replace(SMALL, sampling="farthest"), torch.float32)
    torch.testing.assert_close(stored(ordered).local, sorted_anew(points).local)


@pytest.mark.parametrize("poison", [7.0, float("nan")])
@pytest.mark.parametrize("kind", KINDS)
def test_slots_without_a_shape_change_nothing_for_the_others(kind, poison):
    encoder, points = _encoder(KINDS[kind]), _clouds(4)
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
    assert dirty.pooled.isfinite().all()
    for mine, oracle in zip(dirty_gradients, clean_gradients, strict=True):
        assert torch.equal(mine, oracle)
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind):
    encoder = _encoder(KINDS[kind])
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
    # A product in bfloat16 keeps 8 bits; features are of order 1.
    torch.testing.assert_close(rounded.local.float(), exact.local, rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"blocks": (0, 0)}, "equally long"),
        ({"local_stage": 5}, "local_stage=5"),
        ({"radius": 0.0}, "radius=0.0"),
        ({"num_neighbours": 0}, "num_neighbours=0"),
        ({"radius_scaling": 0.0}, "radius_scaling=0.0"),
        ({"strides": (2, 0, 2, 2)}, "strides are at least 1"),
        ({"blocks": (0, -1, 0, 0)}, "blocks at least 0"),
    ],
)
def test_an_impossible_shape_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(POINTNEXT_S, **change)


def test_in_evaluation_plain_torch_uses_the_running_statistics_too(monkeypatch):
    """On a GPU the second map of an abstraction runs in plain torch."""
    torch.manual_seed(0)
    encoder = PointNext(PointNextConfig(width=8, strides=(2, 2), blocks=(0, 0)), 1).eval()
    points = torch.randn(2, 32, 3)
    points /= points.norm(dim=-1, keepdim=True)
    expected = encoder(points).pooled
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(encoder(points).pooled, expected)


def test_a_cloud_of_which_no_centre_would_be_left_is_refused():
    encoder = PointNext(dataclasses.replace(SMALL, strides=(2,) * len(SMALL.strides)), 2)
    fewest = 2 ** len(SMALL.strides)
    assert encoder(torch.rand(2, fewest, 3)).pooled.isfinite().all()
    with pytest.raises(ValueError, match=r"point_encoder\.strides"):
        encoder(torch.rand(2, fewest - 1, 3))
