"""The field's probes of frozen features, against scikit-learn used by hand and against chance."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC, LinearSVC

from picpoint.evaluate.encoded import ProbeError
from picpoint.evaluate.frozen import (
    FeatureSet,
    FrozenConfig,
    few_shot,
    linear_svm,
    nearest_neighbours,
)

CONFIG = FrozenConfig(penalties=(1e-3, 1e-1), num_neighbours=3, ways=(2, 3), shots=(4,), queries=5)


def blobs(separation: float, seed: int, per_class: int = 20) -> tuple[FeatureSet, FeatureSet]:
    """Training and test clouds of four classes as Gaussian features around the same centres."""
    centres = np.random.default_rng(0).normal(size=(4, 16)) * separation
    labels = np.repeat(np.arange(4), per_class)

    def draw(number: int) -> FeatureSet:
        noise = np.random.default_rng([seed, number]).normal(size=(len(labels), 16))
        return FeatureSet((centres[labels] + noise).astype(np.float32), labels)

    return draw(0), draw(1)


@pytest.mark.parametrize("solver", ["LinearSVC", "SVC"])
@pytest.mark.parametrize("standardise", [False, True])
def test_classes_that_lie_apart_are_named(solver, standardise) -> None:
    train, test = blobs(4.0, 1)
    config = replace(CONFIG, standardise=standardise)
    assert linear_svm(train, test, config, solver).accuracy == 1.0
    assert nearest_neighbours(train, test, config) == 1.0
    assert [score.mean for score in few_shot(train, test, config)] == [1.0, 1.0]


def test_features_that_tell_nothing_give_chance() -> None:
    found = [linear_svm(*blobs(0.0, seed), CONFIG, "LinearSVC").accuracy for seed in range(10)]
    # 800 answers of chance 1/4: six standard deviations.
    assert np.mean(found) == pytest.approx(0.25, abs=6 * (0.25 * 0.75 / 800) ** 0.5)


@pytest.mark.parametrize(("solver", "machine"), [("LinearSVC", LinearSVC), ("SVC", SVC)])
def test_the_choice_of_c_is_that_of_a_grid_search(solver, machine) -> None:
    train, test = blobs(0.6, 2)
    config = FrozenConfig(penalties=(1e-4, 1e-3, 1e-2, 1e-1))
    given = (
        {"random_state": 0, "max_iter": 10_000} if machine is LinearSVC else {"kernel": "linear"}
    )
    search = GridSearchCV(
        machine(**given),
        {"C": config.penalties},
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    ).fit(train.features, train.labels)
    score = linear_svm(train, test, config, solver)
    assert score.penalty == search.best_params_["C"]
    assert score.folds_accuracy == pytest.approx(search.best_score_)
    assert score.accuracy == pytest.approx(search.score(test.features, test.labels))


def test_test_clouds_touch_no_choice() -> None:
    train, test = blobs(0.6, 3)
    wrong = FeatureSet(test.features, (test.labels + 1) % 4)
    scores = [linear_svm(train, each, CONFIG, "SVC") for each in (test, wrong)]
    assert scores[0].penalty == scores[1].penalty
    assert scores[0].folds_accuracy == scores[1].folds_accuracy
    assert scores[0].accuracy + scores[1].accuracy <= 1


def test_a_fixed_c_is_taken_and_not_chosen() -> None:
    score = linear_svm(*blobs(4.0, 4), replace(CONFIG, penalties=(0.5,)), "SVC")
    assert (score.penalty, score.folds_accuracy) == (0.5, None)


def test_few_shot_tasks_are_the_same_for_every_encoder_and_differ_by_seed() -> None:
    train, test = blobs(0.5, 5)
    first, again = (few_shot(train, test, CONFIG) for _ in range(2))
    assert first == again
    assert few_shot(train, test, replace(CONFIG, seed=1)) != first
    assert all(score.trials == 10 and score.std > 0 for score in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": (5,)}, "ways=5: there are 4 classes"),
        ({"shots": (21,)}, "shots=21: a class has 20"),
        ({"queries": 21}, "queries=21: a class has 20"),
    ],
)
def test_tasks_that_cannot_be_are_refused(changes, message) -> None:
    with pytest.raises(ProbeError, match=message):
        few_shot(*blobs(1.0, 6), replace(CONFIG, **changes))


def test_a_class_of_one_cloud_leaves_no_choice_of_c() -> None:
    train, test = blobs(1.0, 7)
    lone = train.rows(np.r_[np.arange(60), 79])
    with pytest.raises(ProbeError, match="one training cloud"):
        linear_svm(lone, test, CONFIG, "SVC")


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ProbeError, match="not all features are finite"):
        FeatureSet(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.int64))
