"""Which shapes are held out? Stratified folds, decided by content and seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64


@dataclass(frozen=True, slots=True)
class HoldoutConfig:
    """Which labelled shapes pre-training never sees.

    Attributes:
        num_folds: parts that each class is cut into; 0 holds nothing out.
        fold: the part that is held out; counted modulo `num_folds`.
        seed: seed of the cut.
    """

    num_folds: int = 5
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_folds == 1 or self.num_folds < 0:
            raise ValueError(
                f"data.holdout.num_folds={self.num_folds}: a fold of one would hold out every "
                "shape; use 0 to hold out none, or at least 2"
            )


def held_out(
    keys: Sequence[str], labels: Sequence[str], config: HoldoutConfig
) -> Bool[np.ndarray, " n"]:
    """Mark the held-out shapes: of every class, one fold; unlabelled shapes never.

    A class's shapes are shuffled by the seed and dealt to the folds in turn; the deal goes on from
    one class to the next, so that all folds are of one size, to within one shape.

    Args:
        keys: sample keys; their order does not matter.
        labels: class of each, "" where unknown.
        config: number of folds and which one.
    """
    mask = np.zeros(len(keys), dtype=bool)
    if config.num_folds == 0:
        return mask
    dealt = 0
    for label in sorted(set(labels) - {""}):
        members = _shuffled_members(keys, labels, label, config.seed)
        folds = (dealt + np.arange(len(members))) % config.num_folds
        mask[members[folds == config.fold % config.num_folds]] = True
        dealt += len(members)
    return mask


def _shuffled_members(
    keys: Sequence[str], labels: Sequence[str], label: str, seed: int
) -> Int64[np.ndarray, " m"]:
    members = sorted((i for i, other in enumerate(labels) if other == label), key=lambda i: keys[i])
    return np.random.default_rng(seed).permutation(np.array(members, dtype=np.int64))
