"""On which shapes is a run probed while it goes on? On a validation fold, never on the test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from picpoint.data.split import HoldoutConfig, Split, split_shapes
from picpoint.linear_probe import ProbeError, check_classes
from shards.manifest import Manifest

# Shapes that statistics are taken from, at most (in whole ghost batches, and one at least).
NUM_CALIBRATING = 512


@dataclass(frozen=True, slots=True)
class OnlineProbeConfig:
    """How a run is probed while it goes on; nothing of it changes the run.

    Attributes:
        every: samples between two probes, and one before the first step and after the last; 0 for
            no probes. They need a fold of their own: `data.holdout.validation_fold`.
        per_class: labelled shapes of each class that the machine learns from at most, and as many
            that it names; always the same.
        penalty: the SVM's C; one for the whole run, as choosing it takes 25 times as long.
        threads: CPU threads of the process that computes it, beside those of the ranks.
    """

    every: int = 0
    per_class: int = 50
    penalty: float = 0.01
    threads: int = 1

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"probe.every={self.every}: must be 0 (no probes) or more samples")
        if self.per_class < 2 or self.threads < 1:
            raise ValueError(
                f"probe.per_class={self.per_class}, probe.threads={self.threads}: must be at least "
                "2 and 1"
            )
        if not self.penalty > 0:
            raise ValueError(f"probe.penalty={self.penalty}: must be above 0; 0.01 is the default")


@dataclass(frozen=True, slots=True)
class ProbeShapes:
    """Who is encoded for a probe, by row in the manifest.

    Attributes:
        train: labelled shapes of pre-training.
        validation: labelled shapes of the validation fold.
        calibrating: shapes of pre-training, labelled or not, that may give statistics.
        labels: class of each shape of the manifest; -1 where unknown.
        split: what the validation part is called in results.
    """

    train: Int64[np.ndarray, " t"]
    validation: Int64[np.ndarray, " v"]
    calibrating: Int64[np.ndarray, " c"]
    labels: Int64[np.ndarray, " n"]
    split: str


def choose_probe_shapes(
    manifest: Manifest, holdout: HoldoutConfig, config: OnlineProbeConfig, ghost_batch: int
) -> ProbeShapes:
    """Choose the shapes of all probes of a run, or find that there are too few.

    Raises:
        ProbeError: no labelled shape is in the validation fold, or a class is too small.
    """
    split = split_shapes(manifest, holdout)
    (names,) = manifest.read_texts("label")
    class_names = tuple(sorted({*names} - {""}))
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = np.array([number_of.get(name, -1) for name in names], dtype=np.int64)
    train = _few_per_class(np.flatnonzero(split.train & (labels >= 0)), labels, config, holdout)
    validation = _few_per_class(np.flatnonzero(split.validation), labels, config, holdout)
    if len(validation) == 0:
        raise ProbeError(
            f"probe.every={config.every}: no labelled shape is in fold {holdout.validation_fold} "
            "(data.holdout.validation_fold); label shapes, or set probe.every=0"
        )
    check_classes(labels[train], labels[validation], class_names)
    return ProbeShapes(
        train=train,
        validation=validation,
        calibrating=_some_trained(split, ghost_batch, holdout.seed),
        labels=labels,
        split=f"validation (fold {holdout.validation_fold} of {holdout.num_folds}, by "
        f"{holdout.unit})",
    )


def _few_per_class(
    rows: Int64[np.ndarray, " r"],
    labels: Int64[np.ndarray, " n"],
    config: OnlineProbeConfig,
    holdout: HoldoutConfig,
) -> Int64[np.ndarray, " few"]:
    """Draw some rows of each class, in the manifest's order."""
    dice = np.random.default_rng(holdout.seed)
    drawn = [
        dice.permutation(rows[labels[rows] == label])[: config.per_class]
        for label in np.unique(labels[rows])
    ]
    return np.sort(np.concatenate([rows[:0], *drawn]))


def _some_trained(split: Split, ghost_batch: int, seed: int) -> Int64[np.ndarray, " c"]:
    trained = np.flatnonzero(split.train)
    enough = max(ghost_batch, NUM_CALIBRATING // ghost_batch * ghost_batch)
    return np.sort(np.random.default_rng(seed).permutation(trained)[:enough])
