"""Masks depend on seed, step and slot alone, and are as random as they should be."""

import pytest
import torch
from torch import nn

from picpoint.ops.dropout import Dropout, _mix, _mix_tensor, _signed, place_dropout


def masks(x: torch.Tensor, seed: int, step: int, first_slot: int = 0) -> list[torch.Tensor]:
    """What two layers make of a batch."""
    layers = nn.ModuleList([Dropout(0.25), Dropout(0.5)])
    place_dropout(layers, seed, step, first_slot)
    return [layer(x) for layer in layers]


def test_tensors_are_hashed_as_plain_numbers_are() -> None:
    numbers = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 123_456_789_012_345_678]
    found = _mix_tensor(torch.tensor([_signed(number) for number in numbers]))
    assert found.tolist() == [_signed(_mix(number)) for number in numbers]
    # Steele, Lea and Flood's generator from seed 0.
    assert _mix(0) == 0xE220A8397B1DCDAF


def test_ranks_leave_out_what_one_rank_would() -> None:
    x = torch.ones(12, 7, 5)
    for whole, *parts in zip(
        masks(x, 3, 4), masks(x[:8], 3, 4, 0), masks(x[8:], 3, 4, 8), strict=True
    ):
        assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("seed", [0, 2**62])
def test_shares_are_met_and_the_mean_is_kept(seed: int) -> None:
    x = torch.ones(64, 2048)
    for dropped, share in zip(masks(x, seed, 1), (0.25, 0.5), strict=True):
        kept = (dropped != 0).double()
        # Six standard deviations of a mean of 131,072 draws.
        assert kept.mean().item() == pytest.approx(1 - share, abs=6 * 0.5 / x.numel() ** 0.5)
        assert torch.allclose(dropped[dropped != 0], torch.tensor(1 / (1 - share)))


def test_seeds_steps_layers_and_neighbours_are_independent() -> None:
    x = torch.ones(64, 2048)
    base = masks(x, 0, 0)[1] != 0
    others = {
        "seed": masks(x, 1, 0)[1] != 0,
        "step": masks(x, 0, 1)[1] != 0,
        "slot": masks(x, 0, 0, 1)[1].roll(1, 0).roll(-1, 0) != 0,
        "neighbour": base.roll(1, 1),
        "next slot": base.roll(1, 0),
    }
    two = nn.ModuleList([Dropout(0.5), Dropout(0.5)])
    place_dropout(two, 0, 0, 0)
    first, second = (layer(x) != 0 for layer in two)
    for name, other in others.items() | {("layer", first)}:
        against = second if name == "layer" else base
        agreeing = (against == other).double().mean().item()
        assert agreeing == pytest.approx(0.5, abs=6 * 0.5 / x.numel() ** 0.5), name


def test_evaluation_leaves_nothing_out_and_gradients_follow_the_mask() -> None:
    layer = Dropout(0.5)
    place_dropout(layer, 0, 0, 0)
    x = torch.ones(4, 100, requires_grad=True)
    dropped = layer(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_to_scale_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"dropout {share}"):
        Dropout(share)
