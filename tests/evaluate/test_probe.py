from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.evaluate.probe import (
    ProbeConfig,
    few_label_probe,
    linear_probe,
    nearest_neighbour,
    nearest_train_shapes,
)
from picpoint.linear_probe import ProbeError

QUICK = ProbeConfig(num_repeats=2, penalties=(1e-3, 1e-2))


def of_ten_labels(shapes, config):
    return few_label_probe(shapes, config, per_class=10)


PROBES = pytest.mark.parametrize("probe", [linear_probe, nearest_neighbour, of_ten_labels])


def encoded(num_classes=4, per_class=10, width=32, separation=4.0, seed=0) -> EncodedShapes:
    """Classes as clouds of Gaussian features; a fifth of every class is held out."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), per_class)
    centres = rng.normal(size=(num_classes, width)) * separation
    features = centres[labels] + rng.normal(size=(len(labels), width))
    shapes = unit(rng.normal(size=(len(labels), 8)))
    pictures = unit(rng.normal(size=(len(labels), 3, 8)))
    return EncodedShapes(
        keys=tuple(f"shape{i:03d}" for i in range(len(labels))),
        class_names=tuple(f"class{i}" for i in range(num_classes)),
        labels=labels.astype(np.int64),
        features=features.astype(np.float32),
        shape_embeddings=shapes.astype(np.float32),
        picture_embeddings=pictures.astype(np.float32),
        held_out=np.arange(len(labels)) % 5 == 0,
    )


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@PROBES
def test_separable_classes_are_all_named(probe):
    trials = probe(encoded(), QUICK)
    assert trials.accuracy == 1.0
    fits = 1 if probe is of_ten_labels else QUICK.num_folds
    assert trials.credit.shape == (QUICK.num_repeats * fits, 8)
    assert trials.keys == tuple(f"shape{i:03d}" for i in range(0, 40, 5))


@PROBES
def test_features_that_tell_nothing_score_about_chance(probe):
    accuracies = [
        probe(encoded(per_class=20, separation=0.0, seed=seed), QUICK).accuracy for seed in range(8)
    ]
    # 8 draws of 16 held-out shapes, chance 1/4: the deviation of the mean is below 0.04.
    assert np.mean(accuracies) == pytest.approx(0.25, abs=0.12)


@PROBES
def test_held_out_labels_do_not_touch_the_fit(probe):
    shapes = encoded(separation=0.5)
    swapped_labels = shapes.labels.copy()
    rows = np.flatnonzero(shapes.held_out)
    swapped_labels[rows] = (shapes.labels[rows] + 1) % 4
    right = probe(shapes, QUICK).credit
    right_after_swap = probe(replace(shapes, labels=swapped_labels), QUICK).credit
    # The same predictions cannot be right under both labels, and scoring every label in turn
    # must find each prediction exactly once.
    others = [probe(replace(shapes, labels=rotated(shapes, step)), QUICK).credit for step in (2, 3)]
    np.testing.assert_array_equal(right + right_after_swap + sum(others), np.ones_like(right))


def rotated(shapes, step):
    labels = shapes.labels.copy()
    labels[shapes.held_out] = (labels[shapes.held_out] + step) % len(shapes.class_names)
    return labels


@PROBES
def test_a_shape_is_judged_the_same_whoever_else_is_held_out(probe):
    shapes = encoded(separation=0.5)
    alone = shapes.labels.copy()
    alone[np.flatnonzero(shapes.held_out)[1:]] = UNLABELLED
    everyone = probe(shapes, QUICK).credit[:, :1]
    np.testing.assert_array_equal(probe(replace(shapes, labels=alone), QUICK).credit, everyone)


@PROBES
def test_unlabelled_shapes_are_neither_fitted_nor_tested(probe):
    shapes = encoded(per_class=15)
    labels = shapes.labels.copy()
    labels[[0, 1, 2]] = UNLABELLED
    features = shapes.features.copy()
    features[1] = 1e6
    trials = probe(replace(shapes, labels=labels, features=features), QUICK)
    assert trials.accuracy == 1.0
    assert "shape000" not in trials.keys


@PROBES
def test_the_scale_and_shift_of_a_feature_do_not_matter(probe):
    shapes = encoded(separation=0.5)
    scale = np.float32(2.0) ** np.arange(-16, 16, dtype=np.float32)
    moved = replace(shapes, features=shapes.features * scale)
    np.testing.assert_array_equal(probe(moved, QUICK).credit, probe(shapes, QUICK).credit)


def test_a_feature_that_never_changes_is_no_trouble():
    shapes = encoded()
    features = shapes.features.copy()
    features[:, :8] = 3.0
    assert linear_probe(replace(shapes, features=features), QUICK).accuracy == 1.0


def test_the_penalty_is_the_one_that_names_the_left_out_folds_best():
    shapes = encoded(separation=0.6, per_class=20)
    per_penalty = [linear_probe(shapes, ProbeConfig(1, penalties=(C,))).credit for C in (1e-9, 0.1)]
    chosen = linear_probe(shapes, ProbeConfig(1, penalties=(1e-9, 0.1))).credit
    assert any(np.array_equal(chosen, credit) for credit in per_penalty)
    assert not np.array_equal(per_penalty[0], per_penalty[1])


def test_each_trial_is_a_machine_fitted_without_one_fold():
    shapes = encoded(separation=0.3, width=200)
    train, test = shapes.probe_train, shapes.probe_test
    folds = StratifiedKFold(5, shuffle=True, random_state=7).split(train, shapes.labels[train])
    expected = []
    for kept, _ in folds:
        machine = make_pipeline(StandardScaler(), LinearSVC(C=0.01, tol=1e-6, max_iter=100_000))
        machine.fit(shapes.features[train[kept]].astype(np.float64), shapes.labels[train[kept]])
        expected.append(machine.predict(shapes.features[test]) == shapes.labels[test])
    trials = linear_probe(shapes, ProbeConfig(num_repeats=1, penalties=(0.01,), seed=7))
    np.testing.assert_array_equal(trials.credit, expected)


def test_a_small_class_lowers_the_number_of_folds():
    shapes = encoded(per_class=5)
    trials = nearest_neighbour(shapes, QUICK)
    assert len(trials.credit) == QUICK.num_repeats * 4


def test_neighbours_equal_a_brute_force_oracle():
    shapes = encoded(separation=0.3)
    train, queries = shapes.probe_train, np.flatnonzero(shapes.held_out)
    seen = shapes.features[train].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    similarity = cosine_similarity(
        (shapes.features[queries] - mean) / deviation, (seen - mean) / deviation
    )
    expected = train[np.argsort(-similarity, axis=1)[:, :3]]
    np.testing.assert_array_equal(nearest_train_shapes(shapes, queries, 3), expected)


@PROBES
def test_a_class_without_training_shapes_is_refused_by_name(probe):
    shapes = encoded()
    held_out = shapes.held_out | (shapes.labels == 2)
    with pytest.raises(ProbeError, match="class 'class2' has 0 labelled pre-training shapes"):
        probe(replace(shapes, held_out=held_out), QUICK)


@PROBES
def test_nothing_held_out_is_refused(probe):
    shapes = encoded()
    with pytest.raises(ProbeError, match="no labelled held-out shape"):
        probe(replace(shapes, held_out=np.zeros_like(shapes.held_out)), QUICK)


def test_features_that_are_not_finite_are_refused():
    shapes = encoded()
    features = shapes.features.copy()
    features[3, 3] = np.nan
    with pytest.raises(ProbeError, match="finite"):
        replace(shapes, features=features)


def test_a_shape_that_stands_twice_is_refused():
    shapes = encoded()
    with pytest.raises(ProbeError, match="stands twice"):
        replace(shapes, keys=("shape001", *shapes.keys[1:]))


@pytest.mark.parametrize("field", [{"num_folds": 1}, {"num_repeats": 0}, {"penalties": ()}])
def test_a_config_that_cannot_work_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        ProbeConfig(**field)


def test_few_labels_are_few(monkeypatch):
    """Only those drawn are fitted: without their class the others would not be named."""
    shapes = encoded(per_class=50, separation=0.3)
    seen = []

    class Watched(LinearSVC):
        def fit(self, features, labels):
            seen.append(np.bincount(labels).tolist())
            return super().fit(features, labels)

    monkeypatch.setattr("sklearn.svm.LinearSVC", Watched)
    trials = few_label_probe(shapes, QUICK, per_class=5)
    assert seen[10] == seen[21] == [5] * 4  # 5 folds of 2 penalties, then the fit that answers
    assert max(map(max, seen)) == 5
    assert trials.credit.shape == (2, 40)
    more = few_label_probe(shapes, QUICK, per_class=40).accuracy
    assert more > trials.accuracy


def test_a_draw_is_the_same_for_every_encoder():
    shapes = encoded(separation=0.5)
    doubled = replace(shapes, features=shapes.features * 2)
    mine, other = (few_label_probe(each, QUICK, per_class=3).credit for each in (shapes, doubled))
    np.testing.assert_array_equal(mine, other)


def test_one_label_a_class_is_refused():
    with pytest.raises(ProbeError, match="per_class=1"):
        few_label_probe(encoded(), QUICK, per_class=1)
