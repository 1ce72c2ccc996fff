"""Which shapes are held out? Stratified folds, decided by content and seed alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from shards.manifest import Manifest

# As long as a key.
_SHORT = 32


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
    class_names = sorted({*labels} - {""})
    class_of = _numbers_of(labels, class_names)
    fold_of = _deal(_number_by_name(units), class_of, config)
    test = fold_of == config.fold % config.num_folds
    validation = np.zeros(len(units), dtype=bool)
    if config.validation_fold is not None:
        validation = fold_of == config.validation_fold % config.num_folds
        validation &= np.isin(class_of, np.unique(class_of[~test & ~validation]))
    return Split(test=test, validation=validation)


def _number_by_name(texts: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Number the distinct texts in the order of their names."""
    longest = max(map(len, texts), default=0)
    if longest <= _SHORT and all(map(str.isascii, texts)):  # keys: in a sixth of the time
        return np.unique(np.array(texts, dtype=f"S{_SHORT}"), return_inverse=True)[1]
    return _numbers_of(texts, sorted({*texts}))


def _numbers_of(texts: Sequence[str], names: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Give the place of each text among the names; -1 where it is none."""
    number_of = {name: number for number, name in enumerate(names)}
    return np.fromiter((number_of.get(text, -1) for text in texts), np.int64, len(texts))


def _deal(
    unit_of: Int64[np.ndarray, " n"], class_of: Int64[np.ndarray, " n"], config: HoldoutConfig
) -> Int64[np.ndarray, " n"]:
    """Give the fold of each shape; -1 for unlabelled ones and those of a class of one unit."""
    labelled = np.flatnonzero(class_of >= 0)
    num_units = unit_of.max(initial=0) + 1
    # Units of a class, class after class; a unit of shapes of two classes is dealt in each.
    dealt, row_of = np.unique(
        class_of[labelled] * num_units + unit_of[labelled], return_inverse=True
    )
    fold_of_dealt = np.empty(len(dealt), dtype=np.int64)
    edges = np.flatnonzero(np.diff(dealt // num_units, prepend=-1, append=-1))
    for start, stop in pairwise(edges.tolist()):
        order = start + np.random.default_rng(config.seed).permutation(stop - start)
        in_turn = np.arange(start, stop) % config.num_folds
        fold_of_dealt[order] = in_turn if stop - start > 1 else -1
    fold_of = np.full(len(unit_of), -1, dtype=np.int64)
    fold_of[labelled] = fold_of_dealt[row_of]
    return fold_of
