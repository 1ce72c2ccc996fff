"""How much do frozen features tell? The field's protocols: linear SVM, k-NN, few-shot. No torch.

C is chosen by cross-validation among training clouds alone; test clouds are looked at once.

Source of few-shot: Sharma and Kaul, Self-supervised few-shot learning on point clouds (2020), as
CrossPoint (arXiv:2203.00680) and later methods measure it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from picpoint.evaluate.encoded import ProbeError

# liblinear: a machine for each class against the rest. libsvm: one for each pair of classes.
Solver = Literal["LinearSVC", "SVC"]


@dataclass(frozen=True, slots=True)
class FrozenConfig:
    """How frozen features are probed.

    Attributes:
        penalties: values of C to choose from, smallest first; one is not chosen but taken.
        num_folds: of the cross-validation.
        standardise: give features mean 0 and deviation 1 over the training clouds. The field
            mostly does not.
        num_neighbours: that vote in k-NN, by cosine.
        ways: classes of a few-shot task.
        shots: labelled clouds of each class.
        queries: clouds of each class to be named.
        trials: tasks of each kind; 0 for no few-shot.
        seed: of folds and tasks.
    """

    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    num_folds: int = 5
    standardise: bool = False
    num_neighbours: int = 20
    ways: tuple[int, ...] = (5, 10)
    shots: tuple[int, ...] = (10, 20)
    queries: int = 20
    trials: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties={self.penalties}: give at least one, all above 0")
        if self.num_folds < 2 or self.num_neighbours < 1 or self.queries < 1 or self.trials < 0:
            raise ValueError(
                f"num_folds={self.num_folds}, num_neighbours={self.num_neighbours}, "
                f"queries={self.queries}, trials={self.trials}: at least 2, 1, 1 and 0"
            )
        if min((*self.ways, 2)) < 2 or min((*self.shots, 1)) < 1:
            raise ValueError(f"ways={self.ways}, shots={self.shots}: at least 2 and 1")


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of clouds and their classes.

    Attributes:
        features: finite rows.
        labels: class of each.
    """

    features: Float32[np.ndarray, "n F"]
    labels: Int64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if not np.isfinite(self.features).all():
            raise ProbeError("not all features are finite: the encoder diverged; take another one")

    def rows(self, chosen: Int64[np.ndarray, " m"]) -> "FeatureSet":
        """Take some rows."""
        return FeatureSet(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True, slots=True)
class SvmScore:
    """What a linear machine made of test clouds.

    Attributes:
        accuracy: share of test clouds named right, 0..1.
        penalty: the C that was taken.
        folds_accuracy: of that C in cross-validation; None where it was fixed.
    """

    accuracy: float
    penalty: float
    folds_accuracy: float | None


def linear_svm(
    train: FeatureSet, test: FeatureSet, config: FrozenConfig, solver: Solver
) -> SvmScore:
    """Fit a linear machine on all training clouds, and name the test clouds.

    Raises:
        ProbeError: a class has too few training clouds for two folds.
    """
    scale = _scaler(train, config.standardise)
    penalty, folds_accuracy = _choose_penalty(train, config, solver)
    machine = _fit(scale(train.features), train.labels, penalty, solver)
    right = machine(scale(test.features)) == test.labels
    return SvmScore(float(right.mean()), penalty, folds_accuracy)


def _choose_penalty(
    train: FeatureSet, config: FrozenConfig, solver: Solver
) -> tuple[float, float | None]:
    """Take the smallest of the best C by cross-validation; every fold has a scale of its own."""
    if len(config.penalties) == 1:
        return config.penalties[0], None
    smallest = int(np.unique(train.labels, return_counts=True)[1].min())
    if smallest < 2:
        raise ProbeError(
            "a class has one training cloud: C cannot be chosen by folds; add clouds, or fix it "
            "with penalties=[0.1]"
        )
    folds = StratifiedKFold(min(config.num_folds, smallest), shuffle=True, random_state=config.seed)
    right = np.zeros(len(config.penalties))
    for kept, left in folds.split(train.features, train.labels):
        seen, asked = train.rows(kept), train.rows(left)
        scale = _scaler(seen, config.standardise)
        for place, penalty in enumerate(config.penalties):
            machine = _fit(scale(seen.features), seen.labels, penalty, solver)
            right[place] += (machine(scale(asked.features)) == asked.labels).sum()
    best = int(np.argmax(right))
    return config.penalties[best], float(right[best] / len(train.labels))


def nearest_neighbours(train: FeatureSet, test: FeatureSet, config: FrozenConfig) -> float:
    """Name test clouds by the votes of the nearest training clouds, by cosine.

    Returns:
        The share that was named right, 0..1.
    """
    scale = _scaler(train, config.standardise)
    count = min(config.num_neighbours, len(train.labels))
    machine = KNeighborsClassifier(count, metric="cosine").fit(scale(train.features), train.labels)
    return float((machine.predict(scale(test.features)) == test.labels).mean())


@dataclass(frozen=True, slots=True)
class FewShotScore:
    """Accuracy over few-shot tasks of one kind, 0..1.

    Attributes:
        ways: classes of a task.
        shots: labelled clouds of each.
        mean: over tasks.
        std: between tasks, of the sample; 0 for one task.
        trials: how many there were.
    """

    ways: int
    shots: int
    mean: float
    std: float
    trials: int


def few_shot(train: FeatureSet, test: FeatureSet, config: FrozenConfig) -> list[FewShotScore]:
    """Fit a linear machine on a few training clouds of a few classes, and name test clouds.

    C is the last of `penalties`, or the one: so few clouds choose none.

    Raises:
        ProbeError: there are fewer classes or clouds than a task takes.
    """
    scores: list[FewShotScore] = []
    for (ways, shots), tasks in draw_episodes(train.labels, test.labels, config).items():
        found = [_name_queries(train, test, config, task) for task in tasks]
        scores.append(score_of(ways, shots, found))
    return scores


def score_of(ways: int, shots: int, accuracies: list[float]) -> FewShotScore:
    """Sum up the tasks of one kind."""
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return FewShotScore(ways, shots, float(np.mean(accuracies)), spread, len(accuracies))


@dataclass(frozen=True, slots=True)
class Episode:
    """A few-shot task.

    Attributes:
        classes: their numbers.
        support: places of the labelled clouds among the training clouds.
        queries: places of those to be named among the test clouds.
    """

    classes: tuple[int, ...]
    support: Int64[np.ndarray, " s"]
    queries: Int64[np.ndarray, " q"]


def draw_episodes(
    train_labels: Int64[np.ndarray, " n"],
    test_labels: Int64[np.ndarray, " m"],
    config: FrozenConfig,
) -> dict[tuple[int, int], list[Episode]]:
    """Draw all few-shot tasks of a config, by their ways and shots.

    Raises:
        ProbeError: there are fewer classes or clouds than one takes.
    """
    return {
        (ways, shots): [
            draw_episode(train_labels, test_labels, config, ways, shots, trial)
            for trial in range(config.trials)
        ]
        for ways in (config.ways if config.trials else ())
        for shots in config.shots
    }


def draw_episode(
    train_labels: Int64[np.ndarray, " n"],
    test_labels: Int64[np.ndarray, " m"],
    config: FrozenConfig,
    ways: int,
    shots: int,
    trial: int,
) -> Episode:
    """Draw a few-shot task, always the same.

    Raises:
        ProbeError: there are fewer classes or clouds than it takes.
    """
    dice = np.random.default_rng([config.seed, ways, shots, trial])
    known = np.intersect1d(train_labels, test_labels)
    if len(known) < ways:
        raise ProbeError(f"ways={ways}: there are {len(known)} classes; ask for fewer, or trials=0")
    classes = dice.choice(known, ways, replace=False).tolist()
    return Episode(
        classes=tuple(classes),
        support=_draw(train_labels, classes, shots, dice, "shots"),
        queries=_draw(test_labels, classes, config.queries, dice, "queries"),
    )


def _name_queries(
    train: FeatureSet, test: FeatureSet, config: FrozenConfig, task: Episode
) -> float:
    support, queries = train.rows(task.support), test.rows(task.queries)
    scale = _scaler(support, config.standardise)
    machine = _fit(scale(support.features), support.labels, config.penalties[-1], "SVC")
    return float((machine(scale(queries.features)) == queries.labels).mean())


def _draw(
    labels: Int64[np.ndarray, " n"],
    classes: list[int],
    count: int,
    dice: np.random.Generator,
    what: str,
) -> Int64[np.ndarray, " m"]:
    """Draw rows of each class, none twice."""
    drawn = []
    for label in classes:
        rows = np.flatnonzero(labels == label)
        if len(rows) < count:
            raise ProbeError(
                f"{what}={count}: a class has {len(rows)} clouds; ask for fewer, or trials=0"
            )
        drawn.append(dice.choice(rows, count, replace=False))
    return np.concatenate(drawn)


Predictor = Callable[[Float[np.ndarray, "m F"]], Int64[np.ndarray, " m"]]


def _fit(
    features: Float[np.ndarray, "n F"],
    labels: Int64[np.ndarray, " n"],
    penalty: float,
    solver: Solver,
) -> Predictor:
    match solver:
        case "LinearSVC":
            machine = LinearSVC(C=penalty, max_iter=10_000, random_state=0)
        case "SVC":
            machine = SVC(C=penalty, kernel="linear")
    with warnings.catch_warnings():
        # liblinear stops near the answer where a large C makes the last digits slow.
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(features, labels)
    return lambda asked: np.asarray(machine.predict(asked))


def _scaler(
    seen: FeatureSet, standardise: bool
) -> Callable[[Float32[np.ndarray, "n F"]], Float[np.ndarray, "n F"]]:
    if not standardise:
        return lambda features: features
    scaler = StandardScaler().fit(seen.features.astype(np.float64))
    return lambda features: np.asarray(scaler.transform(features.astype(np.float64)))
