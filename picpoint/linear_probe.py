"""Can a linear machine name shapes from their features? Arrays in, no torch.

The one fit that evaluations (folds and penalties around it) and runs in the making (picpoint/train)
have in common; neither room may import the other's. scikit-learn takes a second and a half to load,
which training, that only checks classes here, does not wait for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

Fold = tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]


class ProbeError(ValueError):
    """The shapes do not suffice for a probe; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class FoldFit:
    """One SVM: right answers on the fold it left out, and who of the held-out shapes it got."""

    num_left_right: int
    test_right: Bool[np.ndarray, " h"]


def check_classes(
    train: Int64[np.ndarray, " t"], test: Int64[np.ndarray, " h"], class_names: Sequence[str]
) -> None:
    """Make sure that a machine can learn every class that it meets.

    Args:
        train: labels of the shapes that it learns from.
        test: labels of those that it is to name.
        class_names: what a label is called.

    Raises:
        ProbeError: a class has fewer than two shapes to learn from, or there is only one.
    """
    known, counts = np.unique(train, return_counts=True)
    count_of = dict(zip(known.tolist(), counts.tolist(), strict=True))
    for label in np.unique(np.concatenate([train, test])).tolist():
        if count_of.get(label, 0) < 2:
            raise ProbeError(
                f"class {class_names[label]!r} has {count_of.get(label, 0)} labelled "
                "pre-training shapes: a probe needs 2; add shapes or leave the class unlabelled"
            )
    if len(known) < 2:
        raise ProbeError(f"{len(known)} class: a probe needs 2; label shapes of another class")


def fit_fold(
    features: Float32[np.ndarray, "n F"],
    labels: Int64[np.ndarray, " n"],
    fold: Fold,
    test: Int64[np.ndarray, " h"],
    penalties: Sequence[float],
) -> list[FoldFit]:
    """Fit one SVM per penalty on the shapes that a fold keeps, standardised by them alone.

    Args:
        features: of all shapes.
        labels: their classes.
        fold: rows to learn from, and rows left out.
        test: rows of the held-out shapes.
        penalties: values of the SVM's C.
    """
    from sklearn.svm import LinearSVC

    kept, left = fold
    scale = standardiser(features[kept])
    seen = scale(features[kept])
    # The weights of an L2-penalised linear machine lie in the span of the shapes it sees. Turned
    # into that span, features have as many numbers as there are shapes, and the answers stay.
    span = np.linalg.svd(seen, full_matrices=False)[2]

    def fit(penalty: float) -> FoldFit:
        machine = LinearSVC(C=penalty, max_iter=20_000, random_state=0)
        machine.fit(seen @ span.T, labels[kept])
        left_right, test_right = (
            np.equal(machine.predict(scale(features[rows]) @ span.T), labels[rows])
            for rows in (left, test)
        )
        return FoldFit(num_left_right=int(left_right.sum()), test_right=test_right)

    return [fit(penalty) for penalty in penalties]


def standardiser(
    features: Float32[np.ndarray, "a F"],
) -> Callable[[Float32[np.ndarray, "b F"]], Float64[np.ndarray, "b F"]]:
    """Fit the standardising of features: mean 0, deviation 1, constant features to 0."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    return lambda other: np.asarray(scaler.transform(other.astype(np.float64)))
