import math

import numpy as np
import pytest

from picpoint.evaluate.trials import Trials, paired_difference
from picpoint.linear_probe import ProbeError


def trials(keys, *rows) -> Trials:
    return Trials(tuple(keys), np.array(rows, dtype=np.float64))


def test_the_paired_difference_equals_a_case_by_hand():
    # Per shape 1, 1/2, 1 against 0, 1/2, 1: differences 1, 0, 0; mean 1/3; deviation
    # sqrt((4/9 + 1/9 + 1/9) / 2) = 1/sqrt(3); standard error 1/sqrt(3) / sqrt(3) = 1/3.
    difference = paired_difference(
        [trials("abc", [1, 0, 1], [1, 1, 1])], [trials("abc", [0, 1, 1], [0, 0, 1])]
    )
    assert difference.mean == pytest.approx(1 / 3)
    assert difference.standard_error == pytest.approx(1 / 3)
    assert difference.num_shapes == 3
    assert difference.in_standard_errors == pytest.approx(1.0)
    assert not difference.is_gain


def test_repeating_every_trial_shrinks_no_error():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4, 20)) < np.array([0.7, 0.4])[:, None, None]
    once = paired_difference([trials(range_keys(20), *first)], [trials(range_keys(20), *second)])
    often = paired_difference(
        [trials(range_keys(20), *np.repeat(first, 50, axis=0))] * 3,
        [trials(range_keys(20), *np.repeat(second, 50, axis=0))] * 3,
    )
    assert often.mean == pytest.approx(once.mean)
    assert often.standard_error == pytest.approx(once.standard_error)


def range_keys(n):
    return tuple(f"shape{i}" for i in range(n))


def test_seeds_with_other_held_out_shapes_are_pooled_by_shape():
    # Shape b is held out twice, with differences 1 and 0: it counts once, as 1/2.
    difference = paired_difference(
        [trials("ab", [1, 1]), trials("bc", [1, 1])], [trials("ab", [1, 0]), trials("bc", [1, 0])]
    )
    assert difference.num_shapes == 3
    assert difference.mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert difference.standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_the_error_covers_the_truth_as_often_as_it_should():
    # 30 shapes of very different difficulty, 20 correlated trials each; the true difference is 0.2.
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        hard = rng.uniform(0, 0.8, 30)
        first = np.repeat(rng.random((1, 30)) < hard + 0.2, 20, axis=0)
        second = np.repeat(rng.random((1, 30)) < hard, 20, axis=0)
        difference = paired_difference(
            [trials(range_keys(30), *first)], [trials(range_keys(30), *second)]
        )
        inside += abs(difference.mean - 0.2) <= 2 * difference.standard_error
    # Two standard errors of 30 units cover 94.5 %; 400 draws tell that to within 1.2 %.
    assert inside / 400 == pytest.approx(0.945, abs=0.035)


def test_a_difference_without_spread_has_no_multiple():
    everywhere = paired_difference([trials("ab", [1, 1])], [trials("ab", [0, 0])])
    assert (everywhere.mean, everywhere.standard_error) == (1.0, 0.0)
    assert everywhere.in_standard_errors is None
    assert everywhere.is_gain
    nowhere = paired_difference([trials("ab", [1, 0])], [trials("ab", [1, 0])])
    assert nowhere.in_standard_errors is None
    assert not nowhere.is_gain


def test_other_shapes_are_refused():
    with pytest.raises(ProbeError, match="different shapes"):
        paired_difference([trials("ab", [1, 1])], [trials("ac", [1, 1])])


def test_one_shape_has_no_standard_error():
    with pytest.raises(ProbeError, match="1 held-out shapes"):
        paired_difference([trials("a", [1])], [trials("a", [0])])
