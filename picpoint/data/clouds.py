"""From labelled clouds in shards to batches for training and for evaluation.

All that is random about a cloud is drawn from (seed, epoch, cloud), as in pre-training.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from picpoint.batch import CloudBatch
from picpoint.data.cloud_augment import (
    UNCHANGED,
    VOTE,
    ChangedCloud,
    CloudAugmentConfig,
    change_cloud,
)
from picpoint.data.dataset import Dataset, DatasetError
from picpoint.ops.farthest import farthest_order
from shards.cache import CacheConfig
from shards.clouds import PLACES, POINT_LABELS, Cloud
from shards.member_reader import Request
from shards.plan import ReadPlan
from shards.schema import COLORS, NORMALS

# What a network may be told of a point besides its position.
PointFeature = Literal["position", "normal", "height", "color", "place"]
_WIDTHS: dict[PointFeature, int] = {
    "position": 3,
    "normal": 3,
    "height": 1,  # above the lowest point
    "color": 3,  # 0..1
    "place": 3,  # share of the room's extent
}
Subset = Literal["first", "random", "crop"]
_MEMBER_OF: dict[PointFeature, str] = {"normal": NORMALS, "color": COLORS, "place": PLACES}

_READ_AHEAD_CLOUDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudDataConfig:
    """Which clouds are read, and how.

    Attributes:
        shards: folder or URL of a labelled data set.
        train: splits to train on.
        test: splits to test on.
        evaluate_on: `test` trains on all of `train`; `validation` holds a part of it back, measures
            on that, and never reads `test`: for choosing settings.
        validation_share: how large that part is, of every class.
        label_share: of what is left, the part of every class whose labels are used.
        split_seed: of both draws.
        num_points: of a cloud.
        subset: which points of a stored cloud are trained on: the `first` ones, as protocols have
            it, or `random` ones, of which evaluation takes the first; or, of whole rooms, a `crop`:
            those nearest to one of them, again and again where there are fewer, moved to the middle
            of the floor. Evaluation takes crops until every point was in one.
        normalise: `unit_sphere` moves the mean to the origin and the farthest point to the sphere;
            `none` leaves the data set's own unit.
        augment: changes in training.
        read_ahead: batches made ahead.
        threads: that make them.
        cache_dir: local folder to keep what comes from a bucket; "" keeps nothing.
        cache_gb: its bound.
    """

    shards: str
    train: tuple[str, ...] = ("train",)
    test: tuple[str, ...] = ("test",)
    evaluate_on: Literal["test", "validation"] = "test"
    validation_share: float = 0.2
    label_share: float = 1.0
    split_seed: int = 0
    num_points: int = 1024
    subset: Subset = "first"
    normalise: Literal["unit_sphere", "none"] = "unit_sphere"
    augment: CloudAugmentConfig = field(default_factory=CloudAugmentConfig)
    read_ahead: int = 2
    threads: int = 2
    cache_dir: str = ""
    cache_gb: float = 100.0

    def __post_init__(self) -> None:
        for name in ("num_points", "read_ahead", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"data.validation_share={self.validation_share}: must be above 0 and below 1"
            )
        if not 0 < self.label_share <= 1:
            raise ValueError(f"data.label_share={self.label_share}: must be above 0, at most 1")
        if self.evaluate_on == "test" and (both := set(self.train) & set(self.test)):
            raise ValueError(
                f"data.train and data.test both name {min(both)!r}: what is tested on is not "
                "trained on; leave it out of one"
            )

    @property
    def evaluated_on(self) -> str:
        """Name what is measured on, for tables of results."""
        if self.evaluate_on == "test":
            return "+".join(self.test)
        return f"validation of {'+'.join(self.train)}"

    @property
    def cache(self) -> CacheConfig | None:
        """Where to keep what comes from a bucket."""
        return CacheConfig(self.cache_dir, self.cache_gb) if self.cache_dir else None


@dataclass(frozen=True, slots=True)
class CloudView:
    """What a network wants of a cloud; it is the network that knows.

    Attributes:
        num_points: N.
        farthest_first: points come in farthest-point order.
        features: of each point, one after the other.
        with_point_labels: the task labels points.
    """

    num_points: int
    farthest_first: bool
    features: tuple[PointFeature, ...] = ()
    with_point_labels: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """What is to be read besides the points."""
        of_features = tuple(_MEMBER_OF[name] for name in self.features if name in _MEMBER_OF)
        return (*of_features, POINT_LABELS) if self.with_point_labels else of_features

    @property
    def num_features(self) -> int:
        """C, how wide the features of a point are."""
        return sum(_WIDTHS[name] for name in self.features)


@dataclass(frozen=True, slots=True)
class CloudItem:
    """One cloud of a batch; the fields are CloudBatch's without the batch axis.

    Attributes:
        source_id: unique in a set.
        rows: which point of the stored cloud each point is.
    """

    source_id: str
    points: Float32[np.ndarray, "N 3"]
    features: Float32[np.ndarray, "N C"]
    label: int
    point_labels: Int64[np.ndarray, " N_labels"]
    rows: Int64[np.ndarray, " N"]


def training_clouds(
    dataset: Dataset,
    selection: Int64[np.ndarray, " n"],
    plan: ReadPlan,
    rank_slots: slice,
    config: CloudDataConfig,
    view: CloudView,
    samples_seen: int,
) -> Iterator[CloudBatch]:
    """Stream one rank's part of every global batch, for ever, from a position on.

    Args:
        dataset: the clouds.
        selection: manifest index of each cloud that the plan deals with.
        plan: who reads which cloud when; its batches are full.
        rank_slots: this rank's slots of a global batch.
        config: how clouds are read.
        view: what the network wants of them.
        samples_seen: position to start from.

    Raises:
        DatasetError: a cloud has fewer points than are asked for.
        ShardError: a cloud cannot be read.
    """
    positions: Iterator[tuple[int, int]] = _positions(selection, plan, rank_slots, samples_seen)
    num_slots = rank_slots.stop - rank_slots.start
    asked: list[tuple[int, int]] = []

    def requests() -> Iterator[Request]:
        for epoch, row in positions:
            asked.append((epoch, row))
            yield Request(row)

    def make(slot: tuple[int, int], cloud: Cloud | None) -> CloudItem:
        epoch, row = slot
        assert cloud is not None  # the reader raises on damage
        generator = np.random.default_rng([plan.seed, epoch, row])
        label = int(dataset.labels[row])
        chosen = choose_points(cloud, view, config.subset, generator)
        return make_item(cloud, label, chosen, config, view, config.augment, generator)

    stream = dataset.reader.stream(requests(), _READ_AHEAD_CLOUDS)
    with closing(stream), ThreadPoolExecutor(config.threads, "clouds") as pool:
        while True:
            clouds = list(islice(stream, num_slots))
            slots, asked[:num_slots] = asked[:num_slots], []
            yield collate_clouds(list(pool.map(make, slots, clouds)))


def _positions(
    selection: Int64[np.ndarray, " n"], plan: ReadPlan, rank_slots: slice, samples_seen: int
) -> Iterator[tuple[int, int]]:
    """Tell epoch and manifest index of what a rank reads, one after the other, for ever."""
    while True:
        batch = plan.batch_at(samples_seen)
        for place in batch.sample_index[rank_slots].tolist():
            yield batch.epoch, int(selection[place])
        samples_seen += batch.num_samples


def evaluation_clouds(
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    batch_size: int,
    config: CloudDataConfig,
    view: CloudView,
    vote: int = 0,
) -> Iterator[CloudBatch]:
    """Read clouds once, in the order given; the last batch may hold fewer.

    Args:
        dataset: the clouds.
        rows: manifest index of each.
        batch_size: clouds of a batch.
        config: how clouds are read.
        view: what the network wants of them.
        vote: 0 shows them unchanged; others change their scale, each in its own way.

    Raises:
        DatasetError: a cloud has fewer points than are asked for.
        ShardError: a cloud cannot be read.
    """
    augment = VOTE if vote else UNCHANGED
    subset: Subset = "crop" if config.subset == "crop" else "first"

    def make(row: int, cloud: Cloud | None) -> CloudItem:
        assert cloud is not None  # the reader raises on damage
        generator = np.random.default_rng([vote, row])
        chosen = choose_points(cloud, view, subset, generator)
        return make_item(cloud, int(dataset.labels[row]), chosen, config, view, augment, generator)

    stream = dataset.reader.stream(map(Request, rows.tolist()), _READ_AHEAD_CLOUDS)
    with closing(stream), ThreadPoolExecutor(config.threads, "clouds") as pool:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size].tolist()
            yield collate_clouds(list(pool.map(make, chosen, islice(stream, len(chosen)))))


def choose_points(
    cloud: Cloud, view: CloudView, subset: Subset, generator: np.random.Generator
) -> Int64[np.ndarray, " N"]:
    """Choose rows of a stored cloud.

    Raises:
        DatasetError: it has fewer points than are asked for.
    """
    if subset == "crop":
        centre = int(generator.integers(cloud.num_points))
        return nearest_rows(cloud.points, centre, view.num_points)
    if cloud.num_points < view.num_points:
        raise DatasetError(
            f"data.num_points={view.num_points}: cloud {cloud.source_id!r} holds "
            f"{cloud.num_points}; ask for fewer"
        )
    if subset == "random":
        return generator.choice(cloud.num_points, view.num_points, replace=False)
    return np.arange(view.num_points)


def nearest_rows(
    points: Float32[np.ndarray, "P 3"], centre: int, count: int
) -> Int64[np.ndarray, " count"]:
    """Find the points nearest to one of them, which comes first, before others at its place.

    Of points at one distance the first are taken, in their order: `np.argpartition` gives others on
    other processors. Where there are fewer than `count` they come again and again.
    """
    squared = np.square(points - points[centre]).sum(axis=1)
    squared[centre] = -1
    near = np.arange(len(points))
    if count < len(points):
        farthest = np.partition(squared, count - 1)[count - 1]
        near = np.flatnonzero(squared < farthest)
        at_last = np.flatnonzero(squared == farthest)
        near = np.concatenate([near, at_last[: count - len(near)]])
    return np.resize(near[np.argsort(squared[near], kind="stable")], count)


def make_item(
    cloud: Cloud,
    label: int,
    chosen: Int64[np.ndarray, " N"],
    config: CloudDataConfig,
    view: CloudView,
    augment: CloudAugmentConfig,
    generator: np.random.Generator,
) -> CloudItem:
    """Take the chosen points of a stored cloud, normalise and change them."""
    points = cloud.points[chosen]
    if config.subset == "crop":
        middle, floor = points.mean(axis=0), cloud.points[:, 1].min()
        points = points - np.array([middle[0], floor, middle[2]], dtype=np.float32)
    normals, colors, places = (
        array[chosen] if len(array) else array
        for array in (cloud.normals, cloud.colors, cloud.places)
    )
    if config.normalise == "unit_sphere":
        points = to_unit_sphere(points)
    height = points[:, 1:2] - (0 if config.subset == "crop" else points[:, 1].min())
    changed = change_cloud(points, normals, augment, generator)
    kept = colors / np.float32(255)
    if augment.color_drop and generator.random() < augment.color_drop:
        kept = np.zeros_like(kept)
    order = farthest_order(changed.points) if view.farthest_first else np.arange(len(points))
    labels = cloud.point_labels[chosen] if view.with_point_labels else cloud.point_labels[:0]
    return CloudItem(
        source_id=cloud.source_id,
        points=changed.points[order],
        features=_features(view, changed, height, kept, places)[order],
        label=label,
        point_labels=(labels[order] if len(labels) else labels).astype(np.int64),
        rows=chosen[order],
    )


def _features(
    view: CloudView,
    changed: ChangedCloud,
    height: Float32[np.ndarray, "N 1"],
    colors: Float32[np.ndarray, "N_colors 3"],
    places: Float32[np.ndarray, "N_places 3"],
) -> Float32[np.ndarray, "N C"]:
    """Put the features of the points side by side; height and place are those before any change."""
    of: dict[PointFeature, np.ndarray] = {
        "position": changed.points,
        "normal": changed.normals,
        "height": height,
        "color": colors,
        "place": places,
    }
    empty = np.zeros((len(changed.points), 0), np.float32)
    return np.concatenate([empty, *(of[name] for name in view.features)], axis=1)


def to_unit_sphere(points: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
    """Move the mean to the origin and scale the farthest point to length 1.

    Points that all coincide stay at the origin.
    """
    centred = points - points.mean(axis=0)
    farthest = np.linalg.norm(centred, axis=1).max()
    return (centred / farthest if farthest > 0 else centred).astype(np.float32)


def collate_clouds(items: list[CloudItem]) -> CloudBatch:
    """Stack clouds along the batch axis."""
    return CloudBatch(
        keys=tuple(item.source_id for item in items),
        points=torch.from_numpy(np.stack([item.points for item in items])),
        features=torch.from_numpy(np.stack([item.features for item in items])),
        labels=torch.tensor([max(item.label, 0) for item in items]),
        point_labels=torch.from_numpy(np.stack([item.point_labels for item in items])),
        valid=torch.ones(len(items), dtype=torch.bool),
    )
