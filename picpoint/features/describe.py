"""How is an image encoder asked once of every picture of a shard set? Shard by shard.

The shard is the unit of work, as in rendering: finishing one is idempotent, so that workers may be
killed, and jobs run again. What is kept of the maps, and how, is decided before by looking at some
pictures (`prepare_features`), the same for all shards.
"""

import dataclasses
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32

from picpoint.batch import ImageFeatures
from picpoint.data.image_features import (
    FeatureCodec,
    FeatureFormat,
    FeatureInfo,
    basis_sha256,
    fit_basis,
    load_codec,
    needed_cells,
    save_codec,
)
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from shards.codec import decode_picture
from shards.column_sets import publish_columns, write_columns
from shards.columns import ShardEntry
from shards.errors import AlreadyInStoreError, NotFoundInStoreError
from shards.manifest import Manifest, load_manifest, load_part
from shards.reader import PAIRING, Request, ShardReader
from shards.schema import Sample
from shards.store import Store, open_store

# Shapes that the axes of `int8` are found on, and as many others that they are tried on.
_NUM_LOOKED_AT = 48


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """What is kept of what the image encoder says.

    Attributes:
        format: `int8` keeps a cell of the local map as its place along `num_axes` principal axes;
            `float16` keeps it whole.
        num_axes: of `int8`, or the channels of the map if these are fewer.
    """

    format: FeatureFormat = "int8"
    num_axes: int = 128

    def __post_init__(self) -> None:
        if self.num_axes < 1:
            raise ValueError(f"features.num_axes={self.num_axes}: must be at least 1")


@dataclass(frozen=True, slots=True)
class FeatureTask:
    """One shard whose pictures are to be described.

    Attributes:
        shards: folder or URL of the shard set.
        number: of the shard.
        out: folder or URL of the features.
        image_encoder: who describes; its precision is not `auto`.
        num_threads: of each worker.
    """

    shards: str
    number: int
    out: str
    image_encoder: ImageEncoderConfig
    num_threads: int


@dataclass(frozen=True, slots=True)
class DescribedShard:
    """What became of a task.

    Attributes:
        entry: what is told of the shard of features.
        was_finished: it had been finished before.
        worker: names the process that finished it.
    """

    entry: ShardEntry
    was_finished: bool
    worker: str


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near kept features are to live ones, on shapes that the axes were not found on.

    Attributes:
        local_cosine: mean cosine of a cell's feature, about the mean of all, kept and live.
        pooled_cosine: mean cosine of a picture's pooled feature.
        bytes_per_view: of the kept arrays.
    """

    local_cosine: float
    pooled_cosine: float
    bytes_per_view: float


def prepare_features(
    shards: Manifest,
    out: str,
    encoder: ImageEncoder,
    image_encoder: ImageEncoderConfig,
    config: FeaturesConfig,
) -> tuple[FeatureCodec, Fidelity]:
    """Decide how features are kept, write it down, and measure what is lost.

    Raises:
        AlreadyInStoreError: other features are kept in `out`.
        ShardError: a sample cannot be read.
    """
    reader = ShardReader(shards, members=PAIRING)
    looked_at = _spread(shards.num_samples, 2 * _NUM_LOOKED_AT)
    found = list(_describe(reader, looked_at, encoder))
    across = found[0][1].local.shape[-1]
    basis = _basis([_kept_cells(*each) for each in found[::2]], config)
    info = FeatureInfo(
        base_digest=shards.digest,
        encoder=image_encoder.name,
        weights_sha256=encoder.weights_sha256,
        stride=image_encoder.stride,
        input_px=image_encoder.input_px,
        precision=encoder.precision,
        format=config.format,
        num_axes=len(basis) - 1,
        local_width=encoder.local_width,
        pooled_width=encoder.pooled_width,
        cells_across=across,
        basis_sha256=basis_sha256(basis),
    )
    codec = FeatureCodec(info, basis)
    known = load_codec(out)
    if known is not None and _same_but_for_rounding(known, codec):
        codec = known  # on another machine the axes come out a little otherwise
    save_codec(open_store(out), codec.info, codec.basis)
    return codec, _fidelity(codec, found[1::2] or found)


def finish_shard(task: FeatureTask) -> DescribedShard:
    """Describe the pictures of a shard, or find that it was done.

    Raises:
        ShardError: a sample cannot be read, or the store refuses.
    """
    torch.set_num_threads(task.num_threads)
    base, store = load_manifest(task.shards), open_store(task.out)
    told = load_part(store, base.shards[task.number].name)
    was_finished = told is not None and _is_there(store, told)
    entry = told if told is not None and was_finished else _write(task, base, store)
    return DescribedShard(entry, was_finished, f"{socket.gethostname()}:{os.getpid()}")


def publish_features(shards: Manifest, out: str, entries: Sequence[ShardEntry]) -> None:
    """Make finished shards of features a whole column set."""
    codec = load_codec(out)
    assert codec is not None  # it was written first
    publish_columns(out, shards, codec.info.columns, entries)


def _write(task: FeatureTask, base: Manifest, store: Store) -> ShardEntry:
    codec = load_codec(store)
    assert codec is not None
    encoder = _encoder(task.image_encoder)
    first = sum(shard.num_samples for shard in base.shards[: task.number])
    indices = list(range(first, first + base.shards[task.number].num_samples))
    reader = ShardReader(base, members=PAIRING)

    def columns() -> Iterator[dict[str, np.ndarray]]:
        for sample, image in _describe(reader, indices, encoder):
            yield codec.encode(
                image.local[0].numpy(),
                image.pooled[0].numpy(),
                needed_cells(sample, codec.info.cells_across),
            )

    try:
        return write_columns(store, base, task.number, codec.info.columns, columns())
    except AlreadyInStoreError:
        # Another worker was faster, and its machine rounds otherwise.
        told = load_part(store, base.shards[task.number].name)
        if told is None or not _is_there(store, told):
            raise
        return told


def _is_there(store: Store, entry: ShardEntry) -> bool:
    if not entry.num_samples:
        return True
    try:
        return store.size(entry.name) == entry.num_bytes
    except NotFoundInStoreError:
        return False


@lru_cache(maxsize=1)
def _encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """Keep the encoder from shard to shard."""
    return ImageEncoder(config, best_device())


def best_device() -> torch.device:
    """Give the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _describe(
    reader: ShardReader, indices: Sequence[int], encoder: ImageEncoder
) -> Iterator[tuple[Sample, ImageFeatures]]:
    """Ask the encoder of all pictures of some samples."""
    device = next(encoder.buffers()).device

    def requests() -> Iterator[Request]:
        for index in indices:
            yield Request(index, tuple(range(reader.manifest.row(index).num_views)))

    for sample in reader.stream(requests()):
        assert sample is not None  # a damaged one raises
        pictures = [decode_picture(sample.pictures[view]) for view in range(sample.num_views)]
        stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None].contiguous()
        image = encoder(stacked.to(device))
        yield sample, ImageFeatures(local=image.local.cpu(), pooled=image.pooled.cpu())


def _spread(num_samples: int, count: int) -> list[int]:
    """Choose samples all over the set."""
    return np.unique(np.linspace(0, num_samples - 1, count).astype(int)).tolist()


def _kept_cells(sample: Sample, image: ImageFeatures) -> Float32[np.ndarray, "n C"]:
    local = image.local[0].numpy()
    cells = needed_cells(sample, local.shape[-1])
    rows = local.reshape(*local.shape[:2], -1).transpose(0, 2, 1)
    return rows[cells].astype(np.float32)


def _basis(
    cells: Sequence[Float32[np.ndarray, "_ C"]], config: FeaturesConfig
) -> Float32[np.ndarray, "rows C"]:
    if config.format == "float16":
        return np.zeros((1, cells[0].shape[1]), np.float32)
    joined = np.concatenate(cells)
    return fit_basis(joined, min(config.num_axes, joined.shape[1]))


def _same_but_for_rounding(known: FeatureCodec, codec: FeatureCodec) -> bool:
    anything = {"basis_sha256": "", "precision": ""}
    return dataclasses.replace(known.info, **anything) == dataclasses.replace(
        codec.info, **anything
    )


def _fidelity(codec: FeatureCodec, found: Sequence[tuple[Sample, ImageFeatures]]) -> Fidelity:
    cosines: list[float] = []
    pooled_cosines: list[float] = []
    num_bytes = num_views = 0
    mean = codec.basis[-1] if codec.info.format == "int8" else 0.0
    for sample, image in found:
        local, pooled = image.local[0].numpy(), image.pooled[0].numpy()
        cells = needed_cells(sample, codec.info.cells_across)
        columns = codec.encode(local, pooled, cells)
        num_bytes += sum(array.nbytes for array in columns.values())
        num_views += len(cells)
        for view, kept in enumerate(cells):
            live = local[view].reshape(codec.info.local_width, -1).T[kept] - mean
            again = codec.decode_local(columns, view).reshape(codec.info.local_width, -1).T[kept]
            cosines += _cosines(live, again - mean)
            again_pooled = codec.decode_pooled(columns, view)
            pooled_cosines += _cosines(pooled[view, None], again_pooled[None])
    return Fidelity(
        local_cosine=float(np.mean(cosines)),
        pooled_cosine=float(np.mean(pooled_cosines)),
        bytes_per_view=num_bytes / num_views,
    )


def _cosines(a: Float32[np.ndarray, "n C"], b: Float32[np.ndarray, "n C"]) -> list[float]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return ((a * b).sum(axis=1) / lengths.clip(min=1e-12)).tolist()
