"""What does a checkpoint, and the same network untrained, say of every shape of a shard set?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from picpoint.batch import ImageFeatures, PairBatch, move_batch
from picpoint.data.pairs import evaluation_batches, spread_views, stored_cameras
from picpoint.data.split import held_out
from picpoint.encoders.image import ImageEncoder
from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.model import PretrainModel
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import initial_state
from shards.manifest import Manifest
from shards.reader import PAIRING, ShardReader


@dataclass(frozen=True, slots=True)
class EncodeConfig:
    """How shapes are encoded for an evaluation.

    Attributes:
        views: pictures of each shape, from cameras that are far apart.
        batch_size: shapes encoded at once.
    """

    views: int = 4
    batch_size: int = 16


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The same shapes as two networks see them."""

    pretrained: EncodedShapes
    random_init: EncodedShapes


@dataclass(frozen=True, slots=True)
class _Rows:
    features: Float32[np.ndarray, "b F"]
    shape_embeddings: Float32[np.ndarray, "b D"]
    picture_embeddings: Float32[np.ndarray, "b V D"]


def encode_run(
    run: PretrainConfig, run_dir: Path, config: EncodeConfig, device: torch.device
) -> EncodedPair:
    """Encode every shape with a run's newest checkpoint and with its network as it was at first.

    The untrained network gets BatchNorm statistics of the pre-training shapes: with its initial
    ones (mean 0, variance 1) its features would be worse than they need be, and the comparison
    kinder to pre-training.

    Raises:
        CheckpointError: the run has no whole checkpoint.
    """
    image_encoder = ImageEncoder(run.image_encoder).to(device)
    reader = ShardReader(run.data.shards, members=PAIRING)
    checkpoint, _ = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(f"{run_dir / 'checkpoints'}: no checkpoint; run picpoint pretrain")
    widths = (image_encoder.local_width, image_encoder.pooled_width)
    pretrained = initial_state(run.model, run.optim, widths, run.seed, device).model
    random_init = initial_state(run.model, run.optim, widths, run.seed, device).model
    pretrained.load_state_dict(checkpoint.state["model"], strict=True)

    mask = held_out(reader.manifest.keys, reader.manifest.labels, run.data.holdout)
    num_local = pretrained.point_encoder.num_local(run.data.num_points)

    def batches(
        selection: Int64[np.ndarray, " n"], batch_size: int, num_views: int
    ) -> Iterator[PairBatch]:
        views = spread_views(stored_cameras(reader), num_views).tolist()
        read = evaluation_batches(reader, selection, run.data, num_local, batch_size, views)
        return (move_batch(batch, device) for batch in read)

    seen = _whole_ghosts(mask, run.ghost_batch)
    _calibrate(random_init, image_encoder, batches(seen, run.ghost_batch, 1))
    rows = [
        [_encode(network.eval(), batch, image) for network in (pretrained, random_init)]
        for batch in batches(np.arange(len(mask)), config.batch_size, config.views)
        for image in [image_encoder(batch.pictures)]
    ]
    return EncodedPair(
        pretrained=_join([of_pretrained for of_pretrained, _ in rows], reader.manifest, mask),
        random_init=_join([of_random for _, of_random in rows], reader.manifest, mask),
    )


def _whole_ghosts(mask: Bool[np.ndarray, " n"], ghost_batch: int) -> Int64[np.ndarray, " m"]:
    """Give as many pre-training shapes as fill whole ghost batches."""
    seen = np.flatnonzero(~mask)
    return seen[: len(seen) // ghost_batch * ghost_batch]


@torch.no_grad()
def _calibrate(
    model: PretrainModel, image_encoder: ImageEncoder, batches: Iterator[PairBatch]
) -> None:
    """Set BatchNorm's running statistics to the averages over some batches."""
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    model.train()
    for batch in batches:
        model(batch, image_encoder(batch.pictures))
    for norm in norms:
        norm.momentum = 1.0
    update_running_statistics(model)


@torch.no_grad()
def _encode(model: PretrainModel, batch: PairBatch, image: ImageFeatures) -> _Rows:
    pooled = model.encode_pooled(batch.points)
    return _Rows(
        features=pooled.float().cpu().numpy(),
        shape_embeddings=model.embed_shapes(pooled).float().cpu().numpy(),
        picture_embeddings=model.embed_pictures(image).float().cpu().numpy(),
    )


def _join(rows: Sequence[_Rows], manifest: Manifest, mask: Bool[np.ndarray, " n"]) -> EncodedShapes:
    class_names = tuple(sorted(set(manifest.labels) - {""}))
    labels = [class_names.index(label) if label else UNLABELLED for label in manifest.labels]
    return EncodedShapes(
        keys=tuple(manifest.keys),
        class_names=class_names,
        labels=np.array(labels, dtype=np.int64),
        features=np.concatenate([part.features for part in rows]),
        shape_embeddings=np.concatenate([part.shape_embeddings for part in rows]),
        picture_embeddings=np.concatenate([part.picture_embeddings for part in rows]),
        held_out=mask,
    )
