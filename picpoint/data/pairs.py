"""From a stream of samples to batches of clouds, pictures and correspondences.

Everything random about a sample is drawn from a generator seeded by (seed, epoch, sample), so that
a batch does not depend on the rank, the machine or the moment that builds it.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from picpoint.batch import PairBatch
from picpoint.data.augment import (
    UNMOVED,
    AugmentConfig,
    jitter_points,
    move_cameras,
    move_points,
    random_motion,
)
from picpoint.data.split import HoldoutConfig
from picpoint.data.views import (
    ALL_RIGS,
    NotStoredError,
    check_rigs,
    choose_views,
    stored_views,
)
from picpoint.geometry.cameras import world_to_pixel
from picpoint.ops.farthest import farthest_order
from shards.cache import CacheConfig
from shards.codec import decode_picture
from shards.errors import CorruptSampleError
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader
from shards.schema import Sample

logger = logging.getLogger(__name__)

# Samples under way while a batch is built; over a network, several at once.
READ_AHEAD_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What a training step reads of each shape.

    Attributes:
        shards: folder or URL of the shard set.
        num_points: points per cloud; the paper's 1,024.
        point_subset: `prefix` takes the first of the stored farthest-point order, always the same;
            `random` draws others each time and sorts them into farthest-point order.
        rig: whose of the rendered views are used, by the rig's name; `all` for every one's.
        views: how many of those are used, spread as evenly as can be; 0 for all.
        views_per_step: views of a shape in one step. Paper: unspecified; here 1, because one pass
            of the image encoder per pass of the point encoder keeps the two costs alike.
        correspondences: visible points per view. Paper: unspecified; here 128.
        holdout: which shapes pre-training never sees.
        augment: random motion of the clouds.
        on_corrupt: `fail` stops at a corrupt sample; `skip_and_count` leaves its slot masked.
        read_ahead: batches built ahead of the training step.
        cache_dir: local folder that keeps what was fetched from a bucket, shared by the processes
            of a machine; "" for none.
        cache_gb: how much it keeps, in 1e9 bytes.
    """

    shards: str
    num_points: int = 1024
    point_subset: Literal["prefix", "random"] = "prefix"
    rig: str = ALL_RIGS
    views: int = 0
    views_per_step: int = 1
    correspondences: int = 128
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    on_corrupt: Literal["fail", "skip_and_count"] = "fail"
    read_ahead: int = 2
    cache_dir: str = ""
    cache_gb: float = 100.0

    def __post_init__(self) -> None:
        for name in ("num_points", "correspondences", "views_per_step", "read_ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        if self.cache_gb <= 0:
            raise ValueError(f"data.cache_gb={self.cache_gb}: must be more than 0")
        if self.views < 0:
            raise ValueError(f"data.views={self.views}: must be 0 or more; 0 for all")
        if 0 < self.views < self.views_per_step:
            raise ValueError(
                f"data.views_per_step={self.views_per_step}: only data.views={self.views} are "
                "used; lower the one or raise the other"
            )

    @property
    def cache(self) -> CacheConfig | None:
        """Where the reader keeps what it fetches."""
        return CacheConfig(self.cache_dir, self.cache_gb) if self.cache_dir else None


@dataclass(frozen=True, slots=True)
class _Slot:
    """What is to be read for one slot of a batch, and the dice for all else about it."""

    sample_index: int
    views: Int64[np.ndarray, " V"]
    generator: np.random.Generator
    is_valid: bool


@dataclass(frozen=True, slots=True)
class _Pair:
    """One shape of a batch; the fields are PairBatch's without the batch axis."""

    key: str
    points: Float32[np.ndarray, "N 3"]
    pictures: UInt8[np.ndarray, "V 3 H W"]
    view_matrices: Float32[np.ndarray, "V 4 4"]
    projection_matrices: Float32[np.ndarray, "V 4 4"]
    point_index: Int64[np.ndarray, "V K"]
    pixels: Float32[np.ndarray, "V K 2"]
    correspondence_mask: Bool[np.ndarray, "V K"]
    valid: bool = True


def training_batches(
    reader: ShardReader,
    selection: Int64[np.ndarray, " n"],
    plan: ReadPlan,
    rank_slots: slice,
    config: DataConfig,
    num_local: int,
    samples_seen: int,
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
            yield Request(slot.sample_index, tuple(slot.views.tolist()))

    num_told, num_slots = 0, rank_slots.stop - rank_slots.start
    with closing(reader.stream(requests(), READ_AHEAD_SAMPLES)) as samples:
        while True:
            pairs = []
            for sample in islice(samples, num_slots):
                slot = asked.popleft()
                if sample is None or not slot.is_valid:
                    pairs.append(_masked_pair(config, stored.cameras.size_px))
                else:
                    check_rigs(sample, stored)
                    pairs.append(_pair(sample, slot.views, config, num_local, slot.generator))
            for skipped in reader.corrupt[num_told:]:
                logger.warning(
                    "skipped sample %s in %s: %s", skipped.key, skipped.shard, skipped.detail
                )
            num_told = len(reader.corrupt)
            yield _collate(pairs)


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
) -> Iterator[PairBatch]:
    """Read shapes once, in the order given, unmoved, each with the same views."""
    stored = stored_views(reader)
    config = replace(config, point_subset="prefix", augment=UNMOVED)
    chosen = np.array(views, dtype=np.int64)
    requests = (Request(index, tuple(views)) for index in selection.tolist())
    with closing(reader.stream(requests, READ_AHEAD_SAMPLES)) as samples:
        for start in range(0, len(selection), batch_size):
            pairs = []
            for sample_index in selection[start : start + batch_size].tolist():
                sample = _whole(next(samples), reader, sample_index)
                check_rigs(sample, stored)
                generator = np.random.default_rng([0, 0, sample_index])
                pairs.append(_pair(sample, chosen, config, num_local, generator))
            yield _collate(pairs)


def _whole(sample: Sample | None, reader: ShardReader, sample_index: int) -> Sample:
    """Refuse to do without a sample."""
    if sample is None:
        raise CorruptSampleError(
            f"sample {reader.manifest.row(sample_index).key}: damaged, and every shape is "
            f"needed here; run `picpoint shards verify {reader.manifest.url}`"
        )
    return sample


def _pair(
    sample: Sample,
    views: Int64[np.ndarray, " V"],
    config: DataConfig,
    num_local: int,
    generator: np.random.Generator,
) -> _Pair:
    """Choose points and correspondences of one sample, and move it."""
    points, visible = _choose_points(sample, views, config, generator)
    view_matrices = sample.view_matrices[views]
    projection_matrices = sample.projection_matrices[views]
    # Pixels come from the stored world, before any motion: that is where the pictures were taken.
    u_px, v_px, _ = world_to_pixel(
        points[None], view_matrices, projection_matrices, sample.meta.size_px
    )
    pixels = np.stack([u_px, v_px], axis=-1).astype(np.float32)
    if not config.augment.keeps_farthest_order:
        points = jitter_points(points, config.augment.jitter, generator)
        order = farthest_order(points)
        points, visible, pixels = points[order], visible[:, order], pixels[:, order]
    point_index, mask = _draw_correspondences(
        visible[:, :num_local], config.correspondences, generator
    )
    motion = random_motion(config.augment, generator)
    return _Pair(
        key=sample.key,
        points=move_points(points, motion),
        pictures=np.stack(
            [decode_picture(sample.pictures[int(v)]).transpose(2, 0, 1) for v in views]
        ),
        view_matrices=move_cameras(view_matrices, motion),
        projection_matrices=projection_matrices,
        point_index=point_index,
        pixels=np.take_along_axis(pixels, point_index[..., None], axis=1),
        correspondence_mask=mask,
    )


def _choose_points(
    sample: Sample,
    views: Int64[np.ndarray, " V"],
    config: DataConfig,
    generator: np.random.Generator,
) -> tuple[Float32[np.ndarray, "N 3"], Bool[np.ndarray, "V N"]]:
    """Take `num_points` of the stored points, in farthest-point order, and who sees them."""
    if config.num_points > sample.num_points:
        raise NotStoredError(
            f"data.num_points={config.num_points}: sample {sample.key} holds "
            f"{sample.num_points}; ask for fewer, or render with more points"
        )
    visible = np.stack([sample.visible(int(v)) for v in views])
    match config.point_subset:
        case "prefix":
            subset = np.arange(config.num_points)
        case "random":
            subset = generator.choice(sample.num_points, config.num_points, replace=False)
            subset = subset[farthest_order(sample.points[subset].astype(np.float32))]
    return sample.points[subset].astype(np.float32), visible[:, subset]


def _draw_correspondences(
    visible: Bool[np.ndarray, "V M"], count: int, generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "V K"], Bool[np.ndarray, "V K"]]:
    """Draw visible points of each view without replacement, padded with point 0."""
    index = np.zeros((len(visible), count), dtype=np.int64)
    mask = np.zeros((len(visible), count), dtype=bool)
    for view, seen in enumerate(visible):
        candidates = np.flatnonzero(seen)
        drawn = generator.permutation(candidates)[:count]
        index[view, : len(drawn)] = drawn
        mask[view, : len(drawn)] = True
    return index, mask


def _masked_pair(config: DataConfig, size_px: int) -> _Pair:
    """Fill a slot that holds no sample; nothing of it reaches a loss or a statistic."""
    num_views, num_pairs = config.views_per_step, config.correspondences
    identity = np.repeat(np.eye(4, dtype=np.float32)[None], num_views, axis=0)
    return _Pair(
        key="",
        points=np.zeros((config.num_points, 3), np.float32),
        pictures=np.zeros((num_views, 3, size_px, size_px), np.uint8),
        view_matrices=identity,
        projection_matrices=identity,
        point_index=np.zeros((num_views, num_pairs), np.int64),
        pixels=np.zeros((num_views, num_pairs, 2), np.float32),
        correspondence_mask=np.zeros((num_views, num_pairs), bool),
        valid=False,
    )


def _collate(pairs: Sequence[_Pair]) -> PairBatch:
    """Stack pairs along the batch axis."""

    def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    return PairBatch(
        keys=tuple(pair.key for pair in pairs),
        points=stacked([pair.points for pair in pairs]),
        pictures=stacked([pair.pictures for pair in pairs]),
        view_matrices=stacked([pair.view_matrices for pair in pairs]),
        projection_matrices=stacked([pair.projection_matrices for pair in pairs]),
        point_index=stacked([pair.point_index for pair in pairs]),
        pixels=stacked([pair.pixels for pair in pairs]),
        correspondence_mask=stacked([pair.correspondence_mask for pair in pairs]),
        valid=torch.tensor([pair.valid for pair in pairs]),
    )
