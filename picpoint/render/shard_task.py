"""How does a list of shapes become finished shards, whoever else is at it and whoever is killed?

The plan is pure: a list is cut into shards, and a shard is the unit of work, of retry and of
publishing. Finishing one is idempotent. Its tar is published first, whole or not at all; its part
of the manifest after it, which makes it finished. A worker that is killed in between has its work
done again, with the same bytes. Of two that race for a shard one publishes, and the other takes
what that one made.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from picpoint.render.capture import CaptureConfig
from picpoint.render.limited import CaptureLimits, LimitedCapture
from picpoint.render.meshes import MeshError
from picpoint.render.sources import SourceShape
from shards.columns import Reject, ShardEntry, empty_shard, shard_name
from shards.errors import MEND_SHARD, AlreadyInStoreError, CorruptSampleError, NotFoundInStoreError
from shards.manifest import load_part, publish_part
from shards.schema import Sample
from shards.store import Store, open_store
from shards.writer import write_shard

# How long the winner of a race may take from its tar to its part, in pieces.
_PAUSES_S = (0.0, 0.5, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard that is to be made.

    Attributes:
        name: of the tar.
        shapes: what is to lie in it, in this order.
        out: folder or URL of the set.
        capture: what is made of each shape.
        limits: what a shape may cost.
    """

    name: str
    shapes: tuple[SourceShape, ...]
    out: str
    capture: CaptureConfig
    limits: CaptureLimits


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """What became of a task.

    Attributes:
        entry: what the manifest will say of the shard.
        was_finished: it had been finished before, and its tar's SHA-256 is still right.
        busy_s: time it took.
    """

    entry: ShardEntry
    was_finished: bool
    busy_s: float


def plan_shards(
    shapes: Sequence[SourceShape],
    shapes_per_shard: int,
    out: str,
    capture: CaptureConfig,
    limits: CaptureLimits,
) -> tuple[ShardTask, ...]:
    """Cut a list of shapes into shards; the last may be smaller."""
    return tuple(
        ShardTask(
            name=shard_name(number),
            shapes=tuple(shapes[start : start + shapes_per_shard]),
            out=out,
            capture=capture,
            limits=limits,
        )
        for number, start in enumerate(range(0, len(shapes), shapes_per_shard))
    )


def finish_shard(task: ShardTask) -> FinishedShard:
    """Make a shard, or find that it is made.

    Raises:
        StoreError: the store refused, or holds other content under the shard's name.
        CorruptSampleError: a finished shard is damaged.
    """
    started = time.perf_counter()
    store = open_store(task.out)
    entry = _intact_entry(store, task.name)
    was_finished = entry is not None
    if entry is None:
        entry = _make(task, store)
    return FinishedShard(entry, was_finished, time.perf_counter() - started)


def _make(task: ShardTask, store: Store) -> ShardEntry:
    """Render and publish a shard; where another worker was faster, take what it published."""
    rejects: list[Reject] = []
    samples = _capture_all(task, rejects)
    first = next(samples, None)
    try:
        if first is None:
            shard = empty_shard(task.name, rejects)
        else:
            written = write_shard(store, task.name, chain([first], samples))
            shard = replace(written, rejects=tuple(rejects))
        return publish_part(store, shard)
    except AlreadyInStoreError:
        # The same content is no conflict. Other content comes from a worker to whom other shapes
        # were lost, such as to a time limit.
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            if (entry := _intact_entry(store, task.name)) is not None:
                return entry
        raise


def _intact_entry(store: Store, name: str) -> ShardEntry | None:
    """Read what was told of a finished shard, if its tar is there; None if it is to be made.

    Raises:
        CorruptSampleError: the tar is there and is not what was told.
    """
    entry = load_part(store, name)
    if entry is None or not entry.num_samples:
        return entry
    try:
        found = store.sha256(name)
    except NotFoundInStoreError:
        return None
    if found != entry.sha256:
        raise CorruptSampleError(
            f"{store.url}/{name}: SHA-256 {found[:12]}..., but {entry.sha256[:12]}... was written; "
            f"the shard is damaged: {MEND_SHARD}"
        )
    return entry


def _capture_all(task: ShardTask, rejects: list[Reject]) -> Iterator[Sample]:
    """Give the samples of the shapes that can be rendered; add the others to `rejects`."""
    for shape in task.shapes:
        try:
            yield _child(task.capture, task.limits).capture(shape)
        except MeshError as error:
            rejects.append(Reject(shape.source_id, error.reason, str(error)))


@cache
def _child(config: CaptureConfig, limits: CaptureLimits) -> LimitedCapture:
    """Keep one child from shard to shard: starting one takes as long as dozens of shapes."""
    return LimitedCapture(config, limits)
