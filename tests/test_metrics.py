import math

import pytest
import torch
from torch.nn import functional

from picpoint.metrics import alignment, effective_rank, uniformity


def test_alignment_is_zero_for_equal_and_four_for_opposite_unit_vectors():
    unit = functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert alignment(unit, unit) == 0
    assert alignment(unit, -unit).item() == pytest.approx(4, abs=1e-5)


def test_uniformity_of_two_opposite_vectors_is_minus_eight():
    # Their squared distance is 4, and log exp(-2 * 4) is -8; one point gives log 1.
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item() == pytest.approx(-8)
    assert uniformity(torch.ones(5, 2)).item() == pytest.approx(0, abs=1e-6)


def test_spread_vectors_are_more_uniform_than_bunched_ones():
    noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    spread = uniformity(functional.normalize(noise))
    assert spread < uniformity(functional.normalize(noise + 3)) < 0
    assert spread > -4


def test_effective_rank_counts_orthogonal_directions_of_equal_length():
    assert effective_rank(torch.eye(6)[:3]).item() == pytest.approx(3)
    assert effective_rank(torch.ones(5, 6)).item() == pytest.approx(1, abs=1e-4)


def test_effective_rank_equals_the_entropy_of_hand_made_singular_values():
    shares = (0.5, 0.3, 0.2)
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(torch.diag(torch.tensor(shares) * 7)).item() == pytest.approx(expected)


def test_metrics_of_dead_features_are_finite():
    dead = torch.zeros(4, 3)
    assert effective_rank(dead).isfinite()
    assert uniformity(dead).isfinite()


@pytest.mark.parametrize("n", [0, 1])
def test_metrics_of_too_few_vectors_are_finite(n):
    few = torch.ones(n, 4) / 2
    assert alignment(few, few) == 0
    assert uniformity(few) == 0
    assert effective_rank(few).item() == pytest.approx(1)
