import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picpoint.data.split import HoldoutConfig, held_out

KEYS = [f"{n:04x}" for n in range(60)]
LABELS = ["chair"] * 23 + ["table"] * 17 + ["lamp"] * 6 + [""] * 14


def fold(number: int, seed: int = 0) -> np.ndarray:
    return held_out(KEYS, LABELS, HoldoutConfig(num_folds=5, fold=number, seed=seed))


def test_the_folds_cut_the_labelled_shapes_into_parts() -> None:
    counted = sum(fold(number).astype(int) for number in range(5))
    np.testing.assert_array_equal(counted, np.array(LABELS) != "")


@pytest.mark.parametrize("number", range(5))
def test_every_fold_holds_out_a_fifth_of_every_class(number: int) -> None:
    for label in ("chair", "table", "lamp"):
        members = np.array(LABELS) == label
        assert abs(fold(number)[members].sum() - members.sum() / 5) < 1


def test_folds_are_of_one_size_to_within_a_shape() -> None:
    sizes = [fold(number).sum() for number in range(5)]
    assert max(sizes) - min(sizes) <= 1


@given(st.permutations(range(60)))
def test_the_order_of_the_shapes_does_not_matter(order: list[int]) -> None:
    shuffled = held_out(
        [KEYS[i] for i in order], [LABELS[i] for i in order], HoldoutConfig(num_folds=5)
    )
    np.testing.assert_array_equal(shuffled, fold(0)[order])


def test_fold_number_counts_modulo_the_folds() -> None:
    np.testing.assert_array_equal(fold(7), fold(2))


def test_another_seed_holds_out_others() -> None:
    assert (fold(0) != fold(0, seed=1)).any()


def test_zero_folds_hold_out_nothing() -> None:
    assert not held_out(KEYS, LABELS, HoldoutConfig(num_folds=0)).any()


def test_one_fold_is_refused_because_it_would_hold_out_all() -> None:
    with pytest.raises(ValueError, match="num_folds=1"):
        HoldoutConfig(num_folds=1)
