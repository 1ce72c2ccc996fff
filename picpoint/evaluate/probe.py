"""How much do pooled features tell of shapes that pre-training never saw? Arrays in, no torch.

The classes of held-out shapes are named from labelled pre-training shapes, by a linear SVM
(`linear_probe`; `few_label_probe`, from a few of them) and by the nearest of them
(`nearest_neighbour`). Of scikit-learn no more is loaded than is asked for, as in
picpoint/linear_probe.py: the command line knows the errors of this room, and is not to wait for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.trials import Trials
from picpoint.linear_probe import Fold, FoldFit, ProbeError, check_classes, fit_fold, standardiser


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """How features are probed.

    Attributes:
        num_repeats: times that the labelled pre-training shapes are dealt to folds anew.
        num_folds: folds of each deal; every fit leaves one out. A class with fewer labelled shapes
            than folds lowers the number to its own.
        num_neighbours: neighbours that vote in `nearest_neighbour`.
        penalties: values of the SVM's C to choose from, smallest (most regularised) first.
        seed: seed of the deals; the same for all encoders that are compared.
    """

    num_repeats: int = 10
    num_folds: int = 5
    num_neighbours: int = 1
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_repeats, self.num_neighbours) < 1 or self.num_folds < 2:
            raise ValueError(
                f"num_repeats={self.num_repeats}, num_neighbours={self.num_neighbours}, "
                f"num_folds={self.num_folds}: a probe needs at least 1, 1 and 2"
            )
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties={self.penalties}: give at least one, all above 0")


def linear_probe(shapes: EncodedShapes, config: ProbeConfig) -> Trials:
    """Fit linear SVMs on labelled pre-training shapes and test them on the held-out ones.

    The training shapes are dealt to stratified folds, `num_repeats` times. Every fit leaves one
    fold out and standardises the features by the mean and deviation of the shapes it sees. The
    left-out folds choose C, once per deal (the smallest of the best), and the fits with that C
    answer for the held-out shapes: one trial per fit. So neither labels nor features of held-out
    shapes touch a fit, a scale or a choice.

    Why folds, and not the same fit repeated: with one training set a convex probe has one answer,
    and its repeats would only copy it. Leaving shapes out shows how far the answer hangs on single
    labels, and gives each held-out shape a rate in place of a yes or no. It does not make more
    held-out shapes: see `paired_difference`.

    Returns:
        num_repeats * folds trials over the labelled held-out shapes.

    Raises:
        ProbeError: no labelled held-out shape, or a class with fewer than two labelled training
            shapes.
    """
    train, test = _probe_rows(shapes)
    trials: list[Bool[np.ndarray, " h"]] = []
    for folds in _deals(shapes.labels[train], config):
        fits = [
            fit_fold(
                shapes.features, shapes.labels, (train[kept], train[left]), test, config.penalties
            )
            for kept, left in folds
        ]
        left_right = [[fit.num_left_right for fit in of_fold] for of_fold in fits]
        best = int(np.argmax(np.sum(left_right, axis=0)))
        trials.extend(of_fold[best].test_right for of_fold in fits)
    return Trials(shapes.keys_of(test), np.stack(trials).astype(np.float64))


def few_label_probe(shapes: EncodedShapes, config: ProbeConfig, per_class: int) -> Trials:
    """Fit linear SVMs on a few labelled pre-training shapes of each class, drawn anew each time.

    Folds of the few choose C (the smallest of the best), and a fit on all of them answers for the
    held-out shapes.

    Args:
        shapes: what the encoder says.
        config: `num_repeats` is the number of draws; the same for all encoders of one seed.
        per_class: labels of each class; a class with fewer gives all it has.

    Returns:
        num_repeats trials over the labelled held-out shapes.

    Raises:
        ProbeError: as `linear_probe`.
    """
    train, test = _probe_rows(shapes)
    if per_class < 2:
        raise ProbeError(f"per_class={per_class}: a probe needs 2")
    trials: list[Bool[np.ndarray, " h"]] = []
    for repeat in range(config.num_repeats):
        few = _draw_per_class(train, shapes.labels[train], per_class, config.seed + repeat)
        best = _best_penalty(shapes, few, config) if len(config.penalties) > 1 else 0
        (fit,) = fit_fold(
            shapes.features, shapes.labels, (few, few), test, config.penalties[best : best + 1]
        )
        trials.append(fit.test_right)
    return Trials(shapes.keys_of(test), np.stack(trials).astype(np.float64))


def _best_penalty(shapes: EncodedShapes, rows: Int64[np.ndarray, " t"], config: ProbeConfig) -> int:
    """Choose C by one deal of folds: the place of the smallest of the best."""
    (folds,) = _deals(shapes.labels[rows], replace(config, num_repeats=1))
    right = [
        [fit.num_left_right for fit in _fit(shapes, fold, rows, config.penalties)]
        for fold in ((rows[kept], rows[left]) for kept, left in folds)
    ]
    return int(np.argmax(np.sum(right, axis=0)))


def _draw_per_class(
    rows: Int64[np.ndarray, " t"], labels: Int64[np.ndarray, " t"], per_class: int, seed: int
) -> Int64[np.ndarray, " few"]:
    """Draw some rows of each class."""
    dice = np.random.default_rng(seed)
    drawn = [dice.permutation(rows[labels == label])[:per_class] for label in np.unique(labels)]
    return np.concatenate(drawn)


def nearest_neighbour(shapes: EncodedShapes, config: ProbeConfig) -> Trials:
    """Name held-out shapes after their nearest labelled pre-training shapes, by cosine.

    The folds and the standardising are those of `linear_probe`: one trial per left-out fold. Raw
    pooled features are maxima, so nearly all positive and nearly parallel; standardised, the cosine
    sees what sets a shape apart.

    Raises:
        ProbeError: as `linear_probe`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train, test = _probe_rows(shapes)
    trials: list[Bool[np.ndarray, " h"]] = []
    for folds in _deals(shapes.labels[train], config):
        for kept, _ in folds:
            rows = train[kept]
            scale = standardiser(shapes.features[rows])
            classifier = KNeighborsClassifier(
                n_neighbors=min(config.num_neighbours, len(rows)), metric="cosine"
            )
            classifier.fit(scale(shapes.features[rows]), shapes.labels[rows])
            predicted = classifier.predict(scale(shapes.features[test]))
            trials.append(predicted == shapes.labels[test])
    return Trials(shapes.keys_of(test), np.stack(trials).astype(np.float64))


def nearest_train_shapes(
    shapes: EncodedShapes, queries: Int64[np.ndarray, " q"], num_neighbours: int
) -> Int64[np.ndarray, "q k"]:
    """Find the labelled pre-training shapes nearest to some shapes, as `nearest_neighbour` does.

    Args:
        shapes: what the encoder says.
        queries: rows of the shapes asked for.
        num_neighbours: k; fewer come back where there are fewer training shapes.

    Returns:
        Rows of the neighbours, nearest first.
    """
    train = shapes.probe_train
    scale = standardiser(shapes.features[train])
    candidates = _unit(scale(shapes.features[train]))
    similarity = _unit(scale(shapes.features[queries])) @ candidates.T
    order = np.argsort(-similarity, axis=1, kind="stable")
    return train[order[:, :num_neighbours]]


def _probe_rows(
    shapes: EncodedShapes,
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " h"]]:
    train, test = shapes.probe_train, shapes.probe_test
    if len(test) == 0:
        raise ProbeError("no labelled held-out shape: hold out a part of the labelled shapes")
    check_classes(shapes.labels[train], shapes.labels[test], shapes.class_names)
    return train, test


def _deals(labels: Int64[np.ndarray, " t"], config: ProbeConfig) -> Iterator[list[Fold]]:
    """Deal the training shapes to stratified folds, repeatedly; yield (kept, left out) each."""
    from sklearn.model_selection import StratifiedKFold

    smallest_class = int(np.unique(labels, return_counts=True)[1].min())
    num_folds = min(config.num_folds, smallest_class)
    for repeat in range(config.num_repeats):
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=config.seed + repeat)
        yield list(folds.split(np.zeros((len(labels), 1)), labels))


def _fit(
    shapes: EncodedShapes, fold: Fold, test: Int64[np.ndarray, " h"], penalties: Sequence[float]
) -> list[FoldFit]:
    """Fit one SVM per penalty on the shapes that a fold keeps."""
    return fit_fold(shapes.features, shapes.labels, fold, test, penalties)


def _unit(vectors: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(vectors.dtype).tiny)
