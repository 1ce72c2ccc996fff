"""What decides a fine-tuning run, and which clouds does it learn from and is it measured on?"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from picpoint.data.clouds import CloudDataConfig, CloudView, PointFeature, Subset
from picpoint.data.dataset import Dataset, DatasetError
from picpoint.data.dataset_split import Split, split_clouds
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.model import PointEncoderConfig, check_num_points
from picpoint.task_model import (
    ClassificationNetwork,
    PartsNetwork,
    ScenesNetwork,
    TaskName,
    TaskNetwork,
    needs_farthest_first,
)
from picpoint.train.checkpoint import Retention
from picpoint.train.precision import PrecisionName, ResolvedPrecision
from picpoint.train.settings import JsonValue, flatten_settings
from picpoint.train.state import OptimConfig
from shards.clouds import LABEL_COUNTS
from shards.errors import PlanError
from shards.plan import ReadPlan

# What may change between a run and its continuation.
_MOOT = (
    *("data.shards", "data.read_ahead", "data.threads", "data.cache_dir", "data.cache_gb"),
    *("weights", "log_every", "checkpoints", "keep_checkpoints", "eval_batch"),
    "checkpoint_every",
)


# What the published networks are told of a point; positions apart where they take these by nature.
_PUBLISHED_FEATURES: dict[tuple[TaskName, str], tuple[PointFeature, ...]] = {
    ("parts", "dgcnn"): (),
    ("parts", "pointnext"): ("position", "normal", "height"),
    ("scenes", "dgcnn"): ("position", "color", "place"),
    ("scenes", "pointnext"): ("color", "height"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning run, but for where it runs.

    Attributes:
        task: `classify` whole clouds, tell the `parts` of objects whose class is known, or the
            things of `scenes`.
        data: labelled clouds.
        point_encoder: shape of the encoder; that of `weights`, where there are some.
        weights: pre-trained encoder: a folder, a name on the Hub or a run; "" begins from scratch.
        initialise: beginnings of names of tensors that begin anew, though the encoder has them.
        freeze: the encoder keeps its weights, and only the head learns (`classify`).
        point_features: of each point, for `parts` and `scenes`; none names those of the published
            network: for parts PointNeXt takes position, normal and height, and DGCNN the position
            alone; for scenes PointNeXt takes color and height, DGCNN position, color and place.
        optim: optimiser.
        label_smoothing: share of the target that is spread over all classes.
        clip_grad_norm: longest gradient; 0 leaves it.
        global_batch: clouds per step, over all ranks.
        ghost_batch: clouds that share BatchNorm statistics; divides `global_batch`.
        epochs: passes over the training clouds. The last one is the result; the best is reported
            as best.
        votes: times that every cloud is shown in the last evaluation, scaled anew each time; their
            probabilities are added. 0 for no voting.
        eval_every: epochs between evaluations; a checkpoint is written with each.
        eval_batch: clouds evaluated at once.
        precision: of the forward pass; `auto` is bf16 where the hardware has it, else fp32.
        seed: seed of the weights that begin anew, and of every draw.
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints besides; so much a machine that is lost costs.
        checkpoints: folder or URL that checkpoints go to; a folder of the run's own if empty.
        keep_checkpoints: how many of the newest are kept.
    """

    task: TaskName
    data: CloudDataConfig
    point_encoder: PointEncoderConfig
    optim: OptimConfig
    weights: str = ""
    initialise: tuple[str, ...] = ()
    freeze: bool = False
    point_features: tuple[PointFeature, ...] = ()
    label_smoothing: float = 0.2
    clip_grad_norm: float = 0.0
    global_batch: int = 32
    ghost_batch: int = 16
    epochs: int = 250
    votes: int = 0
    eval_every: int = 10
    eval_batch: int = 32
    precision: PrecisionName = "auto"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    checkpoints: str = ""
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        counts = ("eval_every", "eval_batch", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in ("epochs", *counts):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.ghost_batch < 1 or self.global_batch < 1 or self.global_batch % self.ghost_batch:
            raise ValueError(
                f"global_batch={self.global_batch}: must be a multiple of "
                f"ghost_batch={self.ghost_batch}; change one of the two"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing}: must be 0 or more and below 1"
            )
        if not self.clip_grad_norm >= 0 or self.votes < 0:
            raise ValueError(
                f"clip_grad_norm={self.clip_grad_norm}, votes={self.votes}: must be 0 or more"
            )
        self._check_task()
        check_num_points(self.point_encoder, self.data.num_points)

    def _check_task(self) -> None:
        """Refuse what this task does not take."""
        if self.freeze and (self.task != "classify" or not self.weights):
            raise ValueError(
                "freeze=true: leaves a pre-trained encoder as it is under a classifier; it needs "
                "task=classify and weights=..."
            )
        if self.point_features and self.task == "classify":
            raise ValueError(
                f"point_features={list(self.point_features)}: task=classify takes positions alone, "
                "as pre-training does; leave them out"
            )
        if self.data.subset == "crop" and (self.task != "scenes" or self.votes):
            raise ValueError(
                f"data.subset=crop: whole rooms are for task=scenes, and votes=0, not {self.task} "
                f"and {self.votes}: overlapping crops are added already"
            )
        if self.task == "scenes" and self.data.normalise != "none":
            raise ValueError(
                f"data.normalise={self.data.normalise}: lengths of scenes are metres, and places "
                "are told by them; task=scenes needs data.normalise=none"
            )
        if (
            self.task == "parts"
            and self.point_features
            and isinstance(self.point_encoder, DgcnnConfig)
        ):
            raise ValueError(
                f"point_features={list(self.point_features)}: DGCNN for parts takes positions "
                "alone; leave them out, or take point_encoder=pointnext_s"
            )

    def checkpoints_of(self, run_dir: Path) -> str:
        """Tell where the checkpoints of a run lie."""
        return self.checkpoints or str(run_dir / "checkpoints")

    @property
    def retention(self) -> Retention:
        """Which checkpoints stay."""
        return Retention(self.keep_checkpoints)

    @property
    def view(self) -> CloudView:
        """What the network wants of a cloud."""
        farthest_first = needs_farthest_first(self.point_encoder)
        match self.task:
            case "classify":
                return CloudView(self.data.num_points, farthest_first)
            case "parts" | "scenes":
                network = "dgcnn" if isinstance(self.point_encoder, DgcnnConfig) else "pointnext"
                features = self.point_features or _PUBLISHED_FEATURES[self.task, network]
                return CloudView(self.data.num_points, farthest_first, features, True)


@dataclass(frozen=True, slots=True)
class Clouds:
    """Which clouds a run deals with.

    Attributes:
        split: what is trained on and what is measured on.
        plan: the order of training.
    """

    split: Split
    plan: ReadPlan


def choose_clouds(config: FinetuneConfig, dataset: Dataset) -> Clouds:
    """Split the clouds of a data set as the config says.

    Raises:
        DatasetError: no such split, a class that is tested and never learnt, or points that have no
            labels where the task needs them.
        PlanError: there are fewer clouds than one global batch.
    """
    split = split_clouds(config.data, dataset)
    train = split.train
    match config.task:
        case "classify":
            pass
        case "parts":
            _check_parts(dataset)
        case "scenes":
            _check_scenes(dataset, config.data.subset)
    if len(train) < config.global_batch:
        raise PlanError(
            f"global_batch={config.global_batch}: only {len(train)} clouds of "
            f"{config.data.shards} are trained on; lower global_batch"
        )
    content = dataset.reader.manifest.digest.encode() + train.tobytes()
    plan = ReadPlan(
        digest=hashlib.sha256(content).hexdigest(),
        num_samples=len(train),
        global_batch=config.global_batch,
        seed=config.seed,
        remainder="drop_last",
    )
    return Clouds(split, plan)


def _check_parts(dataset: Dataset) -> None:
    info = dataset.info
    if not info.part_names or set(info.parts_of_class) != set(info.class_names):
        raise DatasetError(
            f"{dataset.reader.manifest.url}: {info.name} does not say which parts each class has; "
            "task=parts needs a data set like ShapeNetPart"
        )


def _check_scenes(dataset: Dataset, subset: Subset) -> None:
    if not dataset.info.part_names or dataset.info.parts_of_class:
        raise DatasetError(
            f"{dataset.reader.manifest.url}: {dataset.info.name} does not say what things the "
            "labels of points are; task=scenes needs a data set like S3DIS"
        )
    names = {member.name for member in dataset.reader.manifest.row(0).members}
    are_rooms = LABEL_COUNTS in names
    if are_rooms != (subset == "crop"):
        held = "whole rooms; take data.subset=crop" if are_rooms else "no whole rooms"
        raise DatasetError(f"data.subset={subset}: {dataset.info.name} holds {held}")


def build_network(config: FinetuneConfig, dataset: Dataset) -> TaskNetwork:
    """Build the network of the task, with initial weights."""
    info = dataset.info
    match config.task:
        case "classify":
            return ClassificationNetwork(
                config.point_encoder, len(info.class_names), config.ghost_batch, config.freeze
            )
        case "parts":
            return PartsNetwork(
                config.point_encoder,
                len(info.class_names),
                len(info.part_names),
                config.view.num_features,
                config.ghost_batch,
            )
        case "scenes":
            return ScenesNetwork(
                config.point_encoder,
                len(info.part_names),
                config.view.num_features,
                config.ghost_batch,
            )


def finetune_settings(
    config: FinetuneConfig, clouds: Clouds, precision: ResolvedPrecision, weights_sha256: str
) -> dict[str, JsonValue]:
    """Flatten all that decides the weights of a run; a checkpoint fits only the same settings."""
    flat = flatten_settings(dataclasses.asdict(config))
    return {key: value for key, value in flat.items() if key not in _MOOT} | {
        "precision": precision,
        "data.digest": clouds.plan.digest,
        "weights.sha256": weights_sha256,
    }
