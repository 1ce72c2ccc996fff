"""What does a checkpoint, and the same network untrained, say of every shape of a shard set?"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from picpoint.batch import ImageFeatures, move_batch
from picpoint.data.pairs import evaluation_batches
from picpoint.data.split import split_shapes
from picpoint.data.views import choose_views, stored_views
from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.evaluate.unseen_views import OtherPictures
from picpoint.model import PretrainModel
from picpoint.ops.farthest import farthest_order
from picpoint.train.calibrate import calibrate, deal_to_ghosts
from picpoint.train.checkpoint import Checkpoint, CheckpointError, newest_checkpoint
from picpoint.train.image_source import Teacher, open_teacher
from picpoint.train.precision import resolve_precision
from picpoint.train.restore import check_settings, take_over
from picpoint.train.settings import PretrainConfig, plan_run, run_settings
from picpoint.train.state import TrainState, initial_state
from shards.manifest import Manifest
from shards.reader import PAIRING, ShardReader

logger = logging.getLogger(__name__)

# A run may be evaluated on other hardware, and with pictures where it had what was said of them.
_OF_THE_MACHINE = ("precision", "image_encoder.precision", "image_encoder.kept_as")

# Cameras closer than this stand in one place; the unit sphere's units.
_SAME_PLACE = 1e-3


@dataclass(frozen=True, slots=True)
class EncodeConfig:
    """How shapes are encoded for an evaluation.

    Attributes:
        views: pictures of each shape, from cameras of the run's rig that are far apart; 0 for all.
        unseen_views: pictures of each shape from stored cameras that the run never used, if there
            are any: does it know the shape, or its cameras? 0 for none.
        batch_size: shapes encoded at once.
        image_features: `run` takes pictures' features from where the run took them; `live` asks the
            image encoder, also where the run read cached ones.
        unfinished: take a run's newest whole checkpoint also where the run did not come to its end
            or where a newer checkpoint is damaged.
    """

    views: int = 4
    unseen_views: int = 4
    batch_size: int = 16
    image_features: Literal["run", "live"] = "run"
    unfinished: bool = False

    def __post_init__(self) -> None:
        if self.views < 0 or self.unseen_views < 0 or self.batch_size < 1:
            raise ValueError(
                f"encode.views={self.views}, encode.unseen_views={self.unseen_views}, "
                f"encode.batch_size={self.batch_size}: must be at least 0 (all views), 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The same shapes as two networks see them.

    Attributes:
        pretrained: by the trained one.
        random_init: by the one it was at first.
        others: pictures from cameras that the run never used; None where there are none.
    """

    pretrained: EncodedShapes
    random_init: EncodedShapes
    others: OtherPictures | None = None


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What the networks are shown of all shapes: clouds, and what is known of their pictures."""

    points: Float[Tensor, "n N 3"]
    pictures: Float[Tensor, "n V C"]


@dataclass(frozen=True, slots=True)
class _Views:
    """Which stored views are looked at.

    Attributes:
        usual: those that every evaluation looks from.
        others: that the run never used.
        seen: which of the usual ones the run used.
    """

    usual: list[int]
    others: list[int]
    seen: list[bool]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a network says of some shapes; see EncodedShapes."""

    features: Float[Tensor, "b F"]
    shape_embeddings: Float[Tensor, "b D"]
    picture_embeddings: Float[Tensor, "b V D"]


def encode_run(
    run: PretrainConfig, run_dir: Path, config: EncodeConfig, device: torch.device
) -> EncodedPair:
    """Encode shapes with a run's newest checkpoint and with its network as it was at first.

    All shapes but those of a validation fold: they were not trained on, and are not of the test.

    Both networks get BatchNorm statistics of the pre-training shapes, taken the same way: unmoved
    clouds, dealt to ghost batches by the run's seed, plain averages. Without that the comparison
    would favour one or the other. The untrained network has statistics of nothing (mean 0,
    variance 1), and those of a run come from augmented clouds, averaged with the latest steps
    weighing most, which is not what the shapes to be encoded look like.

    Raises:
        CheckpointError: the run has no whole checkpoint; its newest is damaged or it is unfinished,
            unless that is asked for; or it was trained on other shapes or with other settings.
        ShardError: a shape cannot be read.
    """
    data = run.data
    if config.image_features == "live":
        data = replace(data, image_features="live", features="")
    columns = (data.features,) if data.image_features == "cached" else ()
    reader = ShardReader(data.shards, members=PAIRING, columns=columns, cache=data.cache)
    teacher = open_teacher(data, run.image_encoder, reader.manifest, device)
    image = teacher.source
    plan, _ = plan_run(run, reader.manifest)
    checkpoint = _checkpoint_of(
        run.checkpoints_of(run_dir), run.last_epoch * plan.samples_per_epoch, config.unfinished
    )
    settings = run_settings(run, plan, image, resolve_precision(run.precision, device))
    remedy = "an evaluation needs the shards and the image encoder's weights that it was made with"
    check_settings(checkpoint, settings, remedy, _OF_THE_MACHINE)

    def initial() -> TrainState[PretrainModel]:
        widths = (image.local_width, image.pooled_width)
        return initial_state(run.model, run.optim, widths, run.seed, device)

    trained, untrained = initial(), initial()
    take_over(trained, checkpoint)
    split = split_shapes(reader.manifest, run.data.holdout)
    told_of = np.flatnonzero(~split.validation)  # neither seen nor of the test
    views = _choose_views(run, reader, config)
    shapes = _read_shapes(run, reader, told_of, teacher, config, views, device)
    held_out = split.test[told_of]
    dealt = deal_to_ghosts(np.flatnonzero(~held_out), run.ghost_batch, run.seed)
    # Statistics are of the cameras that every evaluation looks from.
    known = replace(shapes, pictures=shapes.pictures[:, : len(views.usual)])
    encoded: list[EncodedShapes] = []
    others: list[Float32[np.ndarray, "n U D"]] = []
    for network in (trained.model, untrained.model):
        calibrate(network, lambda rows, of=network: _embed(of, known, rows, device), dealt)
        rows = _encode(network.eval(), shapes, config.batch_size, device)
        usual, other = rows.picture_embeddings.split([len(views.usual), len(views.others)], dim=1)
        rows = replace(rows, picture_embeddings=usual)
        encoded.append(_describe(rows, reader.manifest, told_of, held_out))
        others.append(other.numpy())
    pretrained, random_init = encoded
    unseen = OtherPictures(np.array(views.seen), *others) if views.others else None
    return EncodedPair(pretrained, random_init, unseen)


def _choose_views(run: PretrainConfig, reader: ShardReader, config: EncodeConfig) -> _Views:
    """Choose the cameras of an evaluation, and of those that the run never used some far apart."""
    stored = stored_views(reader)
    usual = choose_views(stored, run.data.rig, config.views).tolist()
    used = choose_views(stored, run.data.rig, run.data.views).tolist()
    positions = stored.cameras.positions
    # Another rig may have a camera where a used one stands.
    apart = np.linalg.norm(positions[:, None] - positions[used][None], axis=2).min(axis=1)
    unused, others = np.flatnonzero(apart > _SAME_PLACE), list[int]()
    if len(unused) and config.unseen_views:
        count = min(config.unseen_views, len(unused))
        others = unused[farthest_order(positions[unused], count)].tolist()
    return _Views(usual, others, [view in used for view in usual])


def _checkpoint_of(folder: str, total_samples: int, unfinished: bool) -> Checkpoint:
    """Find the checkpoint that a run ended with, or its newest whole one if that will do."""
    checkpoint, passed_over = newest_checkpoint(folder)
    if checkpoint is None:
        found = "; ".join(passed_over) or "nothing is there"
        raise CheckpointError(f"{folder}: no whole checkpoint ({found}); run picpoint pretrain")
    faults = list(passed_over)
    samples_seen = checkpoint.state["samples_seen"]
    if samples_seen < total_samples:
        faults.append(f"{checkpoint.path} is of {samples_seen} of {total_samples} samples")
    if faults and not unfinished:
        raise CheckpointError(
            f"{'; '.join(faults)}: finish the run by the same command, or evaluate the newest "
            "whole checkpoint with encode.unfinished=true"
        )
    for fault in faults:
        logger.warning("evaluated all the same: %s", fault)
    return checkpoint


def _read_shapes(
    run: PretrainConfig,
    reader: ShardReader,
    told_of: Int64[np.ndarray, " n"],
    teacher: Teacher,
    config: EncodeConfig,
    views: _Views,
    device: torch.device,
) -> _Shapes:
    """Read shapes and learn of their pictures once, for both networks.

    What is kept of a shape takes about as much memory as what the networks will say of it.
    """
    points, pictures = [], []
    # Correspondences are of no use here: one local feature is as few as can be asked for.
    batches = evaluation_batches(
        reader, told_of, run.data, 1, config.batch_size, views.usual + views.others, teacher.codec
    )
    for batch in batches:
        points.append(batch.points)
        pictures.append(teacher.features(move_batch(batch, device)).pooled.float().cpu())
    return _Shapes(points=torch.cat(points), pictures=torch.cat(pictures))


def _encode(model: PretrainModel, shapes: _Shapes, batch_size: int, device: torch.device) -> _Rows:
    """Encode all shapes, in their order."""
    parts = [
        _embed(model, shapes, rows, device)
        for rows in torch.arange(len(shapes.points)).split(batch_size)
    ]
    return _Rows(
        features=torch.cat([part.features for part in parts]),
        shape_embeddings=torch.cat([part.shape_embeddings for part in parts]),
        picture_embeddings=torch.cat([part.picture_embeddings for part in parts]),
    )


@torch.no_grad()
def _embed(
    model: PretrainModel, shapes: _Shapes, rows: Int64[Tensor, " b"], device: torch.device
) -> _Rows:
    pooled = model.encode_pooled(shapes.points[rows].to(device))
    pictures = shapes.pictures[rows].to(device)
    no_map = pictures.new_empty(*pictures.shape[:2], 0, 1, 1)  # only pooled features are embedded
    return _Rows(
        features=pooled.float().cpu(),
        shape_embeddings=model.embed_shapes(pooled).cpu(),
        picture_embeddings=model.embed_pictures(ImageFeatures(no_map, pictures)).cpu(),
    )


def _describe(
    rows: _Rows,
    manifest: Manifest,
    told_of: Int64[np.ndarray, " n"],
    held_out: Bool[np.ndarray, " n"],
) -> EncodedShapes:
    keys, labels = manifest.read_texts("key", "label")
    class_names = tuple(sorted(set(labels) - {""}))
    of_class = {name: number for number, name in enumerate(class_names)}
    classes = [of_class.get(labels[row], UNLABELLED) for row in told_of.tolist()]
    return EncodedShapes(
        keys=tuple(keys[row] for row in told_of.tolist()),
        class_names=class_names,
        labels=np.array(classes, dtype=np.int64),
        features=rows.features.numpy(),
        shape_embeddings=rows.shape_embeddings.numpy(),
        picture_embeddings=rows.picture_embeddings.numpy(),
        held_out=held_out,
    )
