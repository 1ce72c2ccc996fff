"""Which shapes are held out? Stratified folds, decided by content and seed alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from shards.manifest import Manifest


@dataclass(frozen=True, slots=True)
class HoldoutConfig:
    """Which labelled shapes pre-training never sees.

    Attributes:
        num_folds: parts that each class is cut into; 0 holds nothing out.
        fold: the part that is held out; counted modulo `num_folds`.
        seed: seed of the cut.
        validation_fold: a second part that pre-training never sees, for what is looked at while
            decisions are still made (`probe.every`); the held-out one is the test. None for no such
            part: its shapes are trained on.
        unit: what is dealt to the folds. `shape`: single shapes. `series`: shapes of a class whose
            ids differ in digits alone (`PinHeader_1x02`, `PinHeader_1x40`) stay together, because
            sizes of one part on both sides would test memory, not learning.
    """

    num_folds: int = 5
    fold: int = 0
    seed: int = 0
    unit: Literal["shape", "series"] = "shape"
    validation_fold: int | None = None

    def __post_init__(self) -> None:
        if self.num_folds == 1 or self.num_folds < 0:
            raise ValueError(
                f"data.holdout.num_folds={self.num_folds}: a fold of one would hold out every "
                "shape; use 0 to hold out none, or at least 2"
            )
        if self.validation_fold is None:
            return
        if self.num_folds == 0:
            raise ValueError(
                f"data.holdout.validation_fold={self.validation_fold}: with num_folds=0 there are "
                "no folds; cut the shapes into 3 or more, or leave the fold out"
            )
        if self.validation_fold % self.num_folds == self.fold % self.num_folds:
            raise ValueError(
                f"data.holdout.validation_fold={self.validation_fold}: is the test fold "
                f"(data.holdout.fold={self.fold}), which nobody may look at before the end; choose "
                f"another of the {self.num_folds}"
            )


@dataclass(frozen=True, slots=True)
class Split:
    """Who is for what; a shape that is in neither part is trained on.

    Attributes:
        test: the held-out fold.
        validation: the validation fold; nobody where there is none.
    """

    test: Bool[np.ndarray, " n"]
    validation: Bool[np.ndarray, " n"]

    @property
    def train(self) -> Bool[np.ndarray, " n"]:
        """The shapes of pre-training."""
        return ~(self.test | self.validation)


def held_out(manifest: Manifest, config: HoldoutConfig) -> Bool[np.ndarray, " n"]:
    """Mark the test shapes of a set; see `split_shapes`."""
    return split_shapes(manifest, config).test


def split_shapes(manifest: Manifest, config: HoldoutConfig) -> Split:
    """Mark the held-out shapes of a set; nothing is read where none is held out.

    Args:
        manifest: of the n shapes.
        config: number of folds, and which ones.
    """
    if config.num_folds == 0:
        nobody = np.zeros(manifest.num_samples, dtype=bool)
        return Split(test=nobody, validation=nobody)
    if config.unit == "shape":
        units, labels = manifest.read_texts("key", "label")
    else:
        source_ids, labels = manifest.read_texts("source_id", "label")
        units = [series_of(source_id) for source_id in source_ids]
    return mark_folds(units, labels, config)


def series_of(source_id: str) -> str:
    """Name the series of a shape: its id with every number masked."""
    return re.sub(r"[0-9]+", "#", source_id)


def mark_folds(units: Sequence[str], labels: Sequence[str], config: HoldoutConfig) -> Split:
    """Mark, of every class, the test fold and the validation fold; unlabelled shapes never.

    A class's units are shuffled by the seed and dealt to the folds in turn; the deal goes on from
    one class to the next, so that with a shape a unit all folds are of one size, to within one. A
    class of one unit is not held out, because nothing would be left to learn it from; nor is a
    class's validation part where its other units are all in the test.

    Args:
        units: key or series of each shape; shapes of a class that share one stay together. Their
            order does not matter.
        labels: class of each shape, "" where unknown.
        config: number of folds, at least 2, and which ones.
    """
    fold_of = _deal(units, labels, config)
    test = fold_of == config.fold % config.num_folds
    validation = np.zeros(len(units), dtype=bool)
    if config.validation_fold is not None:
        validation = fold_of == config.validation_fold % config.num_folds
        names = np.array(labels, dtype=np.str_)
        remaining = set(names[~test & ~validation].tolist())
        validation &= np.array([label in remaining for label in labels], dtype=bool)
    return Split(test=test, validation=validation)


def _deal(
    units: Sequence[str], labels: Sequence[str], config: HoldoutConfig
) -> Int64[np.ndarray, " n"]:
    """Give the fold of each shape; -1 for unlabelled ones and those of a class of one unit."""
    members: dict[str, dict[str, list[int]]] = {}
    for row, (unit, label) in enumerate(zip(units, labels, strict=True)):
        if label:
            members.setdefault(label, {}).setdefault(unit, []).append(row)
    fold_of = np.full(len(units), -1, dtype=np.int64)
    dealt = 0
    for label in sorted(members):
        of_class = [members[label][unit] for unit in sorted(members[label])]
        for number in np.random.default_rng(config.seed).permutation(len(of_class)):
            if len(of_class) > 1:
                fold_of[of_class[number]] = dealt % config.num_folds
            dealt += 1
    return fold_of
