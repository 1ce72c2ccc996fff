"""Which shapes are held out? Stratified folds, decided by content and seed alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from shards.manifest import Manifest


@dataclass(frozen=True, slots=True)
class HoldoutConfig:
    """Which labelled shapes pre-training never sees.

    Attributes:
        num_folds: parts that each class is cut into; 0 holds nothing out.
        fold: the part that is held out; counted modulo `num_folds`.
        seed: seed of the cut.
        unit: what is dealt to the folds. `shape`: single shapes. `series`: shapes of a class whose
            ids differ in digits alone (`PinHeader_1x02`, `PinHeader_1x40`) stay together, because
            sizes of one part on both sides would test memory, not learning.
    """

    num_folds: int = 5
    fold: int = 0
    seed: int = 0
    unit: Literal["shape", "series"] = "shape"

    def __post_init__(self) -> None:
        if self.num_folds == 1 or self.num_folds < 0:
            raise ValueError(
                f"data.holdout.num_folds={self.num_folds}: a fold of one would hold out every "
                "shape; use 0 to hold out none, or at least 2"
            )


def held_out(manifest: Manifest, config: HoldoutConfig) -> Bool[np.ndarray, " n"]:
    """Mark the held-out shapes of a set; nothing is read where none is held out.

    Args:
        manifest: of the n shapes.
        config: number of folds and which one.
    """
    if config.num_folds == 0:
        return np.zeros(manifest.num_samples, dtype=bool)
    if config.unit == "shape":
        units, labels = manifest.read_texts("key", "label")
    else:
        source_ids, labels = manifest.read_texts("source_id", "label")
        units = [series_of(source_id) for source_id in source_ids]
    return mark_fold(units, labels, config)


def series_of(source_id: str) -> str:
    """Name the series of a shape: its id with every number masked."""
    return re.sub(r"[0-9]+", "#", source_id)


def mark_fold(
    units: Sequence[str], labels: Sequence[str], config: HoldoutConfig
) -> Bool[np.ndarray, " n"]:
    """Mark, of every class, one fold; unlabelled shapes never.

    A class's units are shuffled by the seed and dealt to the folds in turn; the deal goes on from
    one class to the next, so that with a shape a unit all folds are of one size, to within one. A
    class of one unit is not held out, because nothing would be left to learn it from.

    Args:
        units: key or series of each shape; shapes of a class that share one stay together. Their
            order does not matter.
        labels: class of each shape, "" where unknown.
        config: number of folds, at least 2, and which one.
    """
    members: dict[str, dict[str, list[int]]] = {}
    for row, (unit, label) in enumerate(zip(units, labels, strict=True)):
        if label:
            members.setdefault(label, {}).setdefault(unit, []).append(row)
    mask = np.zeros(len(units), dtype=bool)
    dealt = 0
    for label in sorted(members):
        of_class = [members[label][unit] for unit in sorted(members[label])]
        for number in np.random.default_rng(config.seed).permutation(len(of_class)):
            if len(of_class) > 1 and dealt % config.num_folds == config.fold % config.num_folds:
                mask[of_class[number]] = True
            dealt += 1
    return mask
