from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picpoint.data.split import HoldoutConfig, held_out, mark_folds, series_of, split_shapes
from shards.manifest import Manifest
from shards.schema import sample_key

KEYS = [f"{n:04x}" for n in range(60)]
LABELS = ["chair"] * 23 + ["table"] * 17 + ["lamp"] * 6 + [""] * 14


def fold(number: int, seed: int = 0) -> np.ndarray:
    return mark_folds(KEYS, LABELS, HoldoutConfig(num_folds=5, fold=number, seed=seed)).test


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
    shuffled = mark_folds(
        [KEYS[i] for i in order], [LABELS[i] for i in order], HoldoutConfig(num_folds=5)
    ).test
    np.testing.assert_array_equal(shuffled, fold(0)[order])


def _deal_one_by_one(units: list[str], labels: list[str], config: HoldoutConfig) -> list[int]:
    """The rule in plain Python: an oracle."""
    members: dict[str, dict[str, list[int]]] = {}
    for row, (unit, label) in enumerate(zip(units, labels, strict=True)):
        if label:
            members.setdefault(label, {}).setdefault(unit, []).append(row)
    fold_of, dealt = [-1] * len(units), 0
    for label in sorted(members):
        of_class = [members[label][unit] for unit in sorted(members[label])]
        for number in np.random.default_rng(config.seed).permutation(len(of_class)):
            for row in of_class[number]:
                fold_of[row] = dealt % config.num_folds if len(of_class) > 1 else -1
            dealt += 1
    return fold_of


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b" * 32, "b" * 31, "c" * 33, *"defgh\u00e9\U0001f600"]),
            st.sampled_from(["", *"xyz"]),
        )
    ),
    st.integers(2, 4),
    st.integers(0, 9),
)
def test_shapes_are_dealt_as_the_rule_says(
    shapes: list[tuple[str, str]], num_folds: int, seed: int
) -> None:
    units, labels = [unit for unit, _ in shapes], [label for _, label in shapes]
    for fold in range(num_folds):
        config = HoldoutConfig(num_folds, fold, seed)
        marked = mark_folds(units, labels, config).test
        assert marked.tolist() == [each == fold for each in _deal_one_by_one(units, labels, config)]


def test_fold_number_counts_modulo_the_folds() -> None:
    np.testing.assert_array_equal(fold(7), fold(2))


def test_another_seed_holds_out_others() -> None:
    assert (fold(0) != fold(0, seed=1)).any()


def test_zero_folds_hold_out_nothing_and_read_nothing() -> None:
    manifest = Mock(spec=Manifest, num_samples=3)
    np.testing.assert_array_equal(held_out(manifest, HoldoutConfig(num_folds=0)), [False] * 3)
    manifest.read_texts.assert_not_called()


def test_a_class_of_one_unit_is_never_held_out() -> None:
    """Nothing would be left to learn it from."""
    units, labels = ["a", "b", "c"], ["lone", "pair", "pair"]
    marked = [
        mark_folds(units, labels, HoldoutConfig(num_folds=2, fold=fold)).test.tolist()
        for fold in range(2)
    ]
    assert sorted(marked) == [[False, False, True], [False, True, False]]


SIZES = [f"Header_2.54mm/Header_{rows}x{n:02}" for rows in (1, 2) for n in range(1, 41)]
OTHERS = [f"Header_{letter}/part" for letter in "abcd"]


def ids_of(source_ids: list[str], labels: list[str]) -> Manifest:
    keys = [sample_key(source_id) for source_id in source_ids]
    told = {"source_id": source_ids, "label": labels, "key": keys}
    manifest = Mock(spec=Manifest, num_samples=len(source_ids))
    manifest.read_texts.side_effect = lambda *names: tuple(told[name] for name in names)
    return manifest


@pytest.mark.parametrize("fold", range(5))
def test_a_series_is_on_one_side(fold: int) -> None:
    manifest = ids_of(SIZES + OTHERS, ["header"] * 84)
    mask = held_out(manifest, HoldoutConfig(fold=fold, unit="series"))
    assert mask[:80].all() or not mask[:80].any()
    assert len({*mask[:80], *mask[80:]}) == 2  # five series in five folds: one is held out
    by_shape = held_out(manifest, HoldoutConfig(fold=fold))
    assert 0 < by_shape[:80].sum() < 80


def test_a_series_is_what_differs_in_digits_alone() -> None:
    assert series_of(SIZES[0]) == series_of(SIZES[79]) == "Header_#.#mm/Header_#x#"
    assert series_of("Header_a/part") != series_of("Header_b/part")


def test_one_fold_is_refused_because_it_would_hold_out_all() -> None:
    with pytest.raises(ValueError, match="num_folds=1"):
        HoldoutConfig(num_folds=1)


@pytest.mark.parametrize("number", range(1, 5))
def test_the_validation_part_is_another_fold_of_the_same_cut(number: int) -> None:
    split = mark_folds(KEYS, LABELS, HoldoutConfig(validation_fold=number))
    np.testing.assert_array_equal(split.validation, fold(number))
    np.testing.assert_array_equal(split.test, fold(0))
    np.testing.assert_array_equal(split.train, ~(fold(0) | fold(number)))


def test_without_a_validation_fold_nobody_is_in_it() -> None:
    manifest = ids_of(SIZES, ["header"] * 80)
    split = split_shapes(manifest, HoldoutConfig())
    assert not split.validation.any()
    np.testing.assert_array_equal(split.train, ~held_out(manifest, HoldoutConfig()))


@pytest.mark.parametrize(("fold", "validation_fold"), [(0, 0), (1, 6), (-1, 4)])
def test_the_test_fold_is_refused_for_validation(fold: int, validation_fold: int) -> None:
    with pytest.raises(ValueError, match="is the test fold") as raised:
        HoldoutConfig(fold=fold, validation_fold=validation_fold)
    assert "\n" not in str(raised.value)


def test_a_validation_fold_of_no_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no folds"):
        HoldoutConfig(num_folds=0, validation_fold=1)


@pytest.mark.parametrize("validation_fold", [1, 2, 3, 4])
def test_a_class_that_is_all_in_the_test_and_the_validation_part_keeps_the_latter_for_training(
    validation_fold: int,
) -> None:
    units, labels = [f"{n}" for n in range(7)], ["pair"] * 2 + ["many"] * 5
    split = mark_folds(units, labels, HoldoutConfig(validation_fold=validation_fold))
    trained = {label for label, is_trained in zip(labels, split.train, strict=True) if is_trained}
    assert trained == {"pair", "many"}
