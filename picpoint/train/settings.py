"""What is a pre-training run? Its settings, its samples, and what must not change in it."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from picpoint.data.pairs import DataConfig
from picpoint.data.split import held_out
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.model import ModelConfig
from picpoint.train.state import OptimConfig
from shards.errors import PlanError
from shards.manifest import Manifest
from shards.plan import ReadPlan

JsonValue = str | int | float | bool | list[Any] | None

# What may change between a run and its continuation.
_MOOT = (
    "data.shards",
    "data.read_ahead",
    "data.cache_dir",
    "data.cache_gb",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
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
        epochs: passes over the shapes. Paper: unspecified; here 100.
        precision: `bf16` autocasts the forward pass; losses and statistics stay in float32.
        seed: seed of the weights and of every draw.
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints; the last step always makes one.
        keep_checkpoints: how many of the newest are kept.
    """

    data: DataConfig
    point_encoder: DgcnnConfig
    image_encoder: ImageEncoderConfig
    heads: ProjectionConfig
    loss: LossConfig
    optim: OptimConfig
    global_batch: int = 512
    ghost_batch: int = 32
    epochs: int = 100
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    keep_checkpoints: int = 3

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
        if self.global_batch % self.ghost_batch:
            raise ValueError(
                f"global_batch={self.global_batch}: must be a multiple of "
                f"ghost_batch={self.ghost_batch}; change one of the two"
            )

    @property
    def model(self) -> ModelConfig:
        """The sizes of the trainable parts."""
        return ModelConfig(self.point_encoder, self.heads, self.ghost_batch)


def plan_run(
    config: PretrainConfig, manifest: Manifest
) -> tuple[ReadPlan, Int64[np.ndarray, " n"]]:
    """Decide which samples are trained on, and in which order.

    Returns:
        The plan, and the manifest index of each sample that it deals with.

    Raises:
        PlanError: there are fewer samples than one global batch.
    """
    if config.data.holdout.num_folds == 0:  # then nobody needs to know the labels
        selection = np.arange(manifest.num_samples)
    else:
        keys, labels = manifest.read_texts("key", "label")
        selection = np.flatnonzero(~held_out(keys, labels, config.data.holdout))
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


def run_settings(
    config: PretrainConfig, plan: ReadPlan, image_encoder: ImageEncoder
) -> dict[str, JsonValue]:
    """Flatten all that decides the weights of a run; a checkpoint fits only the same settings."""
    flat = dict(_flatten("", dataclasses.asdict(config)))
    return {key: value for key, value in flat.items() if key not in _MOOT} | {
        "data.digest": plan.digest,
        "image_encoder.weights_sha256": image_encoder.weights_sha256,
    }


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, JsonValue]]:  # noqa: ANN401
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
