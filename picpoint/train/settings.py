"""What is a pre-training run? Its settings, its samples, and what must not change in it."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from picpoint.data.config import DataConfig
from picpoint.data.kept_split import kept_split
from picpoint.encoders.image import ImageEncoderConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.model import LEAST_TEMPERATURE, ModelConfig, PointEncoderConfig, check_num_points
from picpoint.train.checkpoint import Retention
from picpoint.train.precision import PrecisionName, ResolvedPrecision
from picpoint.train.probe_shapes import OnlineProbeConfig
from picpoint.train.state import OptimConfig
from shards.errors import PlanError
from shards.manifest import Manifest
from shards.plan import ReadPlan

JsonValue = str | int | float | bool | list[Any] | None

# What may change between a run and its continuation.
_MOOT = (
    "data.shards",
    "data.read_ahead",
    "data.features",
    "data.cache_dir",
    "data.cache_gb",
    "log_every",
    "checkpoint_every",
    "checkpoints",
    "keep_checkpoints",
    "milestone_every",
    "micro_batch",
    "probe.every",
    "probe.per_class",
    "probe.penalty",
    "probe.threads",
    "pause_after",
    "resume_changes",
)

# What a run that begins from another's checkpoint may have otherwise, where `resume_changes` says
# so: a step reads these anew each time, and nothing in the state has their shape or remembers them.
CHANGEABLE = (
    *("optim.lr", "optim.min_lr", "optim.weight_decay", "optim.momentum"),
    *("loss.local_weight", "loss.pooled_weight", "loss.temperature"),
    *("data.augment.rotation", "data.augment.scale_min", "data.augment.scale_max"),
    *("data.augment.shift", "data.augment.jitter"),
)

# Settings that a rank finds out: what `auto` comes to there, and whose features teach.
FOUND_OUT = (
    "precision",
    "image_encoder.precision",
    "image_encoder.kept_as",
    "image_encoder.weights_sha256",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """A pre-training run, but for where it runs.

    Attributes:
        data: what is read.
        point_encoder: the network that is trained.
        image_encoder: the frozen network that teaches it.
        heads: projection heads and pose code.
        loss: weights and temperature.
        optim: optimiser.
        global_batch: shapes per step, over all ranks. Paper: unspecified; here 512.
        ghost_batch: shapes that share BatchNorm statistics; divides `global_batch`.
        micro_batch: shapes that a rank holds the activations of at once, a multiple of
            `ghost_batch`; 0 for all of its share. The gradient is the same, for a second forward
            pass (picpoint/train/gradient_cache.py).
        epochs: passes over the shapes. Paper: unspecified; here 100.
        precision: `bf16` and `fp16` autocast the forward pass; losses and statistics stay in
            float32. `auto` is bf16 where the hardware has it, else fp32.
        seed: seed of the weights and of every draw.
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints; the last step always makes one.
        checkpoints: folder or URL that checkpoints go to, of this run alone
            (picpoint/train/claim.py); a folder of the run's own if empty.
        keep_checkpoints: how many of the newest are kept.
        milestone_every: steps whose checkpoints are made and kept for good; 0 for none.
        pause_after: epochs after which this run ends, though its schedule is one of all `epochs`;
            0 for the end. Another run goes on from its checkpoint.
        resume_changes: settings, of `CHANGEABLE`, that may be others than those of the checkpoint
            that a run begins from.
        probe: how the run is probed while it goes on.
    """

    data: DataConfig
    point_encoder: PointEncoderConfig
    image_encoder: ImageEncoderConfig
    heads: ProjectionConfig
    loss: LossConfig
    optim: OptimConfig
    global_batch: int = 512
    ghost_batch: int = 32
    micro_batch: int = 0
    epochs: int = 100
    precision: PrecisionName = "auto"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    checkpoints: str = ""
    keep_checkpoints: int = 3
    milestone_every: int = 0
    pause_after: int = 0
    resume_changes: tuple[str, ...] = ()
    probe: OnlineProbeConfig = field(default_factory=OnlineProbeConfig)

    def __post_init__(self) -> None:
        at_least_one = (
            "epochs",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "global_batch",
            "ghost_batch",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.probe.every and self.data.holdout.validation_fold is None:
            raise ValueError(
                f"probe.every={self.probe.every}: needs shapes that are neither trained on nor of "
                "the test; give them a fold, data.holdout.validation_fold=1, or set probe.every=0"
            )
        if self.milestone_every < 0:
            raise ValueError(f"milestone_every={self.milestone_every}: must be 0 or more")
        if not 0 <= self.pause_after <= self.epochs:
            raise ValueError(
                f"pause_after={self.pause_after}: must be 0, or epochs after which to end, at most "
                f"epochs={self.epochs}"
            )
        self._check_changes()
        check_num_points(self.point_encoder, self.data.num_points)
        if self.global_batch % self.ghost_batch:
            raise ValueError(
                f"global_batch={self.global_batch}: must be a multiple of "
                f"ghost_batch={self.ghost_batch}; change one of the two"
            )
        if self.micro_batch < 0 or self.micro_batch % self.ghost_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch}: must be a multiple of ghost_batch="
                f"{self.ghost_batch}, or 0 for a rank's whole share"
            )
        if self.loss.learn_temperature and self.loss.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"loss.temperature={self.loss.temperature}: one that is learnt is kept at "
                f"{LEAST_TEMPERATURE} or more; begin there"
            )
        if self.loss.negatives == "group" and self.ghost_batch % self.loss.group_size:
            raise ValueError(
                f"loss.group_size={self.loss.group_size}: must divide ghost_batch="
                f"{self.ghost_batch}, so that no group is spread over ranks"
            )

    def _check_changes(self) -> None:
        if fixed := [name for name in self.resume_changes if name not in CHANGEABLE]:
            raise ValueError(
                f"resume_changes: {', '.join(fixed)} cannot change in the midst of a run; these "
                f"can: {', '.join(CHANGEABLE)}"
            )
        if "loss.temperature" in self.resume_changes and self.loss.learn_temperature:
            raise ValueError(
                "resume_changes: loss.temperature is where a temperature that is learnt begins, "
                "and is not looked at again; set loss.learn_temperature=false"
            )

    @property
    def last_epoch(self) -> int:
        """How many epochs are over when this run ends."""
        return self.pause_after or self.epochs

    @property
    def epochs_told(self) -> str:
        """How many, for readers: `20 of 100` where the run is to pause."""
        pauses = self.last_epoch < self.epochs
        return f"{self.last_epoch} of {self.epochs}" if pauses else str(self.epochs)

    def checkpoints_of(self, run_dir: Path) -> str:
        """Tell where the checkpoints of a run lie."""
        return self.checkpoints or str(run_dir / "checkpoints")

    @property
    def retention(self) -> Retention:
        """Which checkpoints stay."""
        return Retention(self.keep_checkpoints, self.milestone_every)

    def is_checkpoint_due(self, step: int) -> bool:
        """Tell whether a step's state is saved."""
        every = (self.checkpoint_every, self.milestone_every)
        return any(number and step % number == 0 for number in every)

    def is_probe_due(self, samples_seen: int) -> bool:
        """Tell whether the network is probed as it is at a position."""
        every, before = self.probe.every, samples_seen - self.global_batch
        return every > 0 and samples_seen // every > before // every

    @property
    def model(self) -> ModelConfig:
        """The sizes of the trainable parts."""
        learnt = self.loss.temperature if self.loss.learn_temperature else None
        return ModelConfig(self.point_encoder, self.heads, self.ghost_batch, learnt)


def plan_run(
    config: PretrainConfig, manifest: Manifest
) -> tuple[ReadPlan, Int64[np.ndarray, " n"]]:
    """Decide which samples are trained on, and in which order.

    Returns:
        The plan, and the manifest index of each sample that it deals with.

    Raises:
        PlanError: there are fewer samples than one global batch.
    """
    selection = np.flatnonzero(
        kept_split(manifest, config.data.holdout, config.data.cache_dir).train
    )
    if len(selection) < config.global_batch:
        raise PlanError(
            f"global_batch={config.global_batch}: {config.data.shards} holds only "
            f"{len(selection)} shapes to train on; lower global_batch or render more shapes"
        )
    digest = hashlib.sha256(manifest.digest.encode() + selection.tobytes()).hexdigest()
    plan = ReadPlan(
        digest=digest,
        num_samples=len(selection),
        global_batch=config.global_batch,
        seed=config.seed,
        remainder="drop_last",
    )
    return plan, selection


def rows_of_ranks(plan: ReadPlan, ghost_batch: int, num_ranks: int) -> tuple[int, ...]:
    """Count the shapes of a global batch that each rank holds."""
    slices = (plan.rank_slice(ghost_batch, rank, num_ranks) for rank in range(num_ranks))
    return tuple(part.stop - part.start for part in slices)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Whose features teach, whether it is asked or was asked before.

    Attributes:
        local_width: channels of its local map.
        pooled_width: of its pooled feature.
        weights_sha256: of its weight file.
        precision: of its arithmetic.
        kept_as: how features were kept; "" where they are live.
    """

    local_width: int
    pooled_width: int
    weights_sha256: str
    precision: str
    kept_as: str = ""


def run_settings(
    config: PretrainConfig, plan: ReadPlan, image: ImageSource, precision: ResolvedPrecision
) -> dict[str, JsonValue]:
    """Flatten all that decides the weights of a run; a checkpoint fits only the same settings."""
    return declared_settings(config, plan) | {
        "precision": precision,
        "image_encoder.precision": image.precision,
        "image_encoder.kept_as": image.kept_as,
        "image_encoder.weights_sha256": image.weights_sha256,
    }


def flatten_settings(settings: dict[str, Any]) -> dict[str, JsonValue]:
    """Name nested settings as overrides do, as in `optim.lr`."""
    return dict(_flatten("", settings))


def declared_settings(config: PretrainConfig, plan: ReadPlan) -> dict[str, JsonValue]:
    """Flatten what of `run_settings` is known before a rank is asked; `FOUND_OUT` is not."""
    flat = flatten_settings(dataclasses.asdict(config))
    return {key: value for key, value in flat.items() if key not in _MOOT} | {
        "data.digest": plan.digest
    }


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, JsonValue]]:  # noqa: ANN401
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
