"""Who was right, and is one encoder more often right than another?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from picpoint.linear_probe import ProbeError

Metric = Literal["linear_probe", "knn", "retrieval_picture_to_shape", "retrieval_shape_to_picture"]
METRICS: tuple[Metric, ...] = get_args(Metric)

# Standard errors below this are rounding, not spread.
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Trials:
    """Who was right, trial by trial.

    Attributes:
        keys: the held-out shapes.
        credit: 1 where the trial got the shape right, 0 where not; a tie shares the 1.
    """

    keys: tuple[str, ...]
    credit: Float64[np.ndarray, "T h"]

    @property
    def accuracy(self) -> float:
        """Mean over trials and shapes."""
        return float(self.per_shape.mean())

    @property
    def per_shape(self) -> Float64[np.ndarray, " h"]:
        """Mean over the trials of each shape."""
        return self.credit.mean(axis=0)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """By how much one encoder is more often right than another on the same shapes.

    Attributes:
        mean: mean over shapes of the difference in accuracy, -1..1.
        standard_error: of that mean, from the spread between shapes.
        num_shapes: distinct held-out shapes, the independent units.
    """

    mean: float
    standard_error: float
    num_shapes: int

    @property
    def in_standard_errors(self) -> float | None:
        """The mean as a multiple of its standard error; None where nothing spreads."""
        if self.standard_error < _NO_SPREAD:
            return None
        return self.mean / self.standard_error

    @property
    def is_gain(self) -> bool:
        """Whether the first encoder is better by more than two standard errors."""
        return self.mean > max(2 * self.standard_error, _NO_SPREAD)


def paired_difference(first: Sequence[Trials], second: Sequence[Trials]) -> PairedDifference:
    """Compare two encoders on the same held-out shapes, pooled over folds and seeds.

    The unit is the held-out shape. All of a shape's trials (folds, views, seeds) are averaged
    before anything is compared, so each shape gives one difference; the standard error is the
    deviation of those differences over the root of their number. Trials are not units: the fits of
    two folds share most of their training shapes, two views show the same shape, and counting them
    as independent would shrink the error by the root of their number without any new evidence.
    Pairing takes out how hard a shape is, which is common to both encoders.

    What the error covers: another draw of held-out shapes from the same source. What it does not:
    another set of pre-training shapes, or seeds not run; the spread between seeds is told beside
    it. Shapes of one class are counted as independent.

    Args:
        first: one entry per seed.
        second: the same seeds and shapes, in the same order.

    Raises:
        ProbeError: the two were not measured on the same shapes, or there are fewer than two.
    """
    if [trials.keys for trials in first] != [trials.keys for trials in second]:
        raise ProbeError("the two encoders were measured on different shapes: measure both on one")
    differences: dict[str, list[float]] = {}
    for mine, other in zip(first, second, strict=True):
        for key, difference in zip(mine.keys, mine.per_shape - other.per_shape, strict=True):
            differences.setdefault(key, []).append(float(difference))
    per_shape = np.array([np.mean(of_shape) for of_shape in differences.values()])
    if len(per_shape) < 2:
        raise ProbeError(
            f"{len(per_shape)} held-out shapes: a standard error needs 2; hold out more shapes"
        )
    return PairedDifference(
        mean=float(per_shape.mean()),
        standard_error=float(per_shape.std(ddof=1) / np.sqrt(len(per_shape))),
        num_shapes=len(per_shape),
    )
