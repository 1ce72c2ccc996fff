"""From a stream of samples to batches of clouds, pictures and correspondences.

Everything random about a sample is drawn from a generator seeded by (seed, epoch, sample), so that
a batch does not depend on the rank, the machine or the moment that builds it.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from jaxtyping import Int64

from picpoint.batch import PairBatch
from picpoint.data.augment import (
    UNMOVED,
)
from picpoint.data.config import DataConfig
from picpoint.data.image_features import FeatureCodec
from picpoint.data.pair import collate, make_pair, masked_pair
from picpoint.data.views import (
    NotStoredError,
    check_rigs,
    choose_views,
    stored_views,
)
from shards.errors import CodecError, CorruptSampleError
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader
from shards.schema import Sample, SchemaError

logger = logging.getLogger(__name__)

# Samples under way while a batch is built; over a network, several at once.
READ_AHEAD_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class _Slot:
    """What is to be read for one slot of a batch, and the dice for all else about it."""

    sample_index: int
    views: Int64[np.ndarray, " V"]
    generator: np.random.Generator
    is_valid: bool


def training_batches(
    reader: ShardReader,
    selection: Int64[np.ndarray, " n"],
    plan: ReadPlan,
    rank_slots: slice,
    config: DataConfig,
    num_local: int,
    samples_seen: int,
    codec: FeatureCodec | None = None,
) -> Iterator[PairBatch]:
    """Stream one rank's part of every global batch, for ever, from a position on.

    Args:
        reader: the shard set.
        selection: manifest index of each sample that the plan deals with.
        plan: who reads which sample when.
        rank_slots: this rank's slots of a global batch.
        config: what to read of each sample.
        num_local: how many leading points have local features; correspondences are among them.
        samples_seen: position to start from.
        codec: of the image features that `reader` reads along, in place of pictures.

    Raises:
        ShardError: a sample is corrupt and `config.on_corrupt` is `fail`.
        NotStoredError: more views or points, or another rig, are asked for than are stored, or
            shapes were rendered with other rigs than the first.
    """
    stored = stored_views(reader)
    usable_views = choose_views(stored, config.rig, config.views)
    if config.views_per_step > len(usable_views):
        raise NotStoredError(
            f"data.views_per_step={config.views_per_step}: only {len(usable_views)} views were "
            f"rendered of data.rig={config.rig}; ask for at most {len(usable_views)}, or render a "
            "larger rig"
        )
    asked: deque[_Slot] = deque()

    def requests() -> Iterator[Request]:
        for slot in _slots(selection, plan, rank_slots, usable_views, config, samples_seen):
            asked.append(slot)
            views = tuple(slot.views.tolist())
            yield Request(slot.sample_index, views, pictures=codec is None)

    num_told, num_slots = 0, rank_slots.stop - rank_slots.start
    with closing(reader.stream(requests(), READ_AHEAD_SAMPLES)) as samples:
        while True:
            pairs = []
            for sample in islice(samples, num_slots):
                slot, pair = asked.popleft(), None
                if sample is not None and slot.is_valid:
                    check_rigs(sample, stored)
                    try:
                        pair = make_pair(
                            sample, slot.views, config, num_local, slot.generator, codec
                        )
                    except (CodecError, SchemaError) as error:
                        reader.refuse(slot.sample_index, str(error))
                pairs.append(pair or masked_pair(config, stored.cameras.size_px, codec))
            for skipped in reader.corrupt[num_told:]:
                logger.warning(
                    "skipped sample %s in %s: %s", skipped.key, skipped.shard, skipped.detail
                )
            num_told = len(reader.corrupt)
            yield collate(pairs)


def _slots(
    selection: Int64[np.ndarray, " n"],
    plan: ReadPlan,
    rank_slots: slice,
    usable_views: Int64[np.ndarray, " V"],
    config: DataConfig,
    samples_seen: int,
) -> Iterator[_Slot]:
    """Tell what a rank reads, slot after slot, for ever."""
    while True:
        batch = plan.batch_at(samples_seen)
        for place in batch.sample_index[rank_slots].tolist():
            sample_index = int(selection[place])  # of a padded slot: any, it is masked
            generator = np.random.default_rng([plan.seed, batch.epoch, sample_index])
            views = generator.choice(usable_views, config.views_per_step, replace=False)
            yield _Slot(sample_index, views, generator, place >= 0)
        samples_seen += batch.num_samples


def evaluation_batches(
    reader: ShardReader,
    selection: Int64[np.ndarray, " n"],
    config: DataConfig,
    num_local: int,
    batch_size: int,
    views: Sequence[int],
    codec: FeatureCodec | None = None,
) -> Iterator[PairBatch]:
    """Read shapes once, in the order given, unmoved, each with the same views.

    Args:
        reader: the shard set.
        selection: manifest indices of the shapes.
        config: what to read of each.
        num_local: how many leading points have local features.
        batch_size: shapes per batch; the last one may hold fewer.
        views: of every shape.
        codec: of the image features that `reader` reads along, in place of pictures.

    Raises:
        CorruptSampleError: a shape is damaged.
        NotStoredError: as `training_batches`.
    """
    stored = stored_views(reader)
    config = replace(config, point_subset="prefix", augment=UNMOVED)
    chosen = np.array(views, dtype=np.int64)
    pictures = codec is None
    requests = (Request(index, tuple(views), pictures) for index in selection.tolist())
    with closing(reader.stream(requests, READ_AHEAD_SAMPLES)) as samples:
        for start in range(0, len(selection), batch_size):
            pairs = []
            for sample_index in selection[start : start + batch_size].tolist():
                sample = _whole(next(samples), reader, sample_index)
                check_rigs(sample, stored)
                generator = np.random.default_rng([0, 0, sample_index])
                try:
                    pairs.append(make_pair(sample, chosen, config, num_local, generator, codec))
                except (CodecError, SchemaError) as error:
                    raise CorruptSampleError(f"sample {sample.key}: {error}") from error
            yield collate(pairs)


def _whole(sample: Sample | None, reader: ShardReader, sample_index: int) -> Sample:
    """Refuse to do without a sample."""
    if sample is None:
        raise CorruptSampleError(
            f"sample {reader.manifest.row(sample_index).key}: damaged, and every shape is "
            f"needed here; run `picpoint shards verify {reader.manifest.url}`"
        )
    return sample
