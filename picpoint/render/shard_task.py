"""How does a list of shapes become finished shards, whoever else is at it and whoever is killed?

The plan is pure: a list is cut into shards, and a shard is the unit of work, of retry and of
publishing. Finishing one is idempotent. Its tar is published first, whole or not at all; its part
of the manifest after it, which makes it finished. A worker that is killed in between has its work
done again, with the same bytes. Of two that race for a shard one publishes, and the other takes
what that one made.

Bytes differ only where a shape is lost to chance, such as a time limit on a busy machine. Then what
was published first stays: a tar without its part is told of as it is.
"""

import atexit
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from picpoint.render.capture import CaptureConfig
from picpoint.render.capture_child import CaptureLimits
from picpoint.render.limited import LimitedCapture
from picpoint.render.meshes import MeshError
from picpoint.render.sources import SourceShape
from shards.columns import Reject, ShardEntry, empty_shard, shard_name
from shards.errors import MEND_SHARD, AlreadyInStoreError, CorruptSampleError, NotFoundInStoreError
from shards.manifest import load_part, publish_part
from shards.schema import Sample
from shards.store import Store, open_store
from shards.writer import index_shard, write_shard

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
        worker: names the process that finished it.
    """

    entry: ShardEntry
    was_finished: bool
    worker: str


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
    store = open_store(task.out)
    told = load_part(store, task.name)
    entry = told if told is not None and _is_intact(store, told) else None
    was_finished = entry is not None
    if entry is None:
        entry = _make(task, store, () if told is None else told.rejects)
    return FinishedShard(entry, was_finished, f"{socket.gethostname()}:{os.getpid()}")


def _make(task: ShardTask, store: Store, rejected: Sequence[Reject]) -> ShardEntry:
    """Render and publish a shard; where other content is published already, take that.

    Args:
        task: what is to be made.
        store: to where.
        rejected: what an earlier worker told of as rejected; it is not tried again.
    """
    rejects = list(rejected)
    samples = _capture_all(task, rejects)
    first = next(samples, None)
    try:
        if first is None:
            return _without_samples(task, store, rejects)
        written = write_shard(store, task.name, chain([first], samples))
        return publish_part(store, replace(written, rejects=tuple(rejects)))
    except AlreadyInStoreError:
        # The same content is no conflict. Other content comes from a worker to whom other shapes
        # were lost, and who may be about to tell of it.
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            if (told := _told_of(task, store)) is not None:
                return told
        return _adopt(task, store, rejects)


def _without_samples(task: ShardTask, store: Store, rejects: Sequence[Reject]) -> ShardEntry:
    """Tell of a shard of rejects alone, unless an earlier worker had samples of it."""
    try:
        store.size(task.name)
    except NotFoundInStoreError:
        return publish_part(store, empty_shard(task.name, rejects))
    return _adopt(task, store, rejects)


def _adopt(task: ShardTask, store: Store, rejects: Sequence[Reject]) -> ShardEntry:
    """Tell of a tar whose writer was killed before it told of it.

    Raises:
        AlreadyInStoreError: the tar holds other shapes than it should.
        CorruptSampleError: it is damaged.
    """
    found = index_shard(store, task.name)
    here = set(found.samples.source_ids)
    if not here <= {shape.source_id for shape in task.shapes}:
        raise AlreadyInStoreError(
            f"{store.url}/{task.name}: holds shapes of another set; remove it, or write to another "
            "folder"
        )
    reasons = {reject.source_id: reject for reject in rejects}
    unknown = "lost", "a worker that was killed did not tell why"
    lost = [
        reasons.get(shape.source_id, Reject(shape.source_id, *unknown))
        for shape in task.shapes
        if shape.source_id not in here
    ]
    try:
        return publish_part(store, replace(found, rejects=tuple(lost)))
    except AlreadyInStoreError:
        # Another worker has just told of it, who knew other reasons.
        if (told := _told_of(task, store)) is None:
            raise
        return told


def _told_of(task: ShardTask, store: Store) -> ShardEntry | None:
    """Give what another worker told of a shard, if the tar is there as it was told of."""
    told = load_part(store, task.name)
    return told if told is not None and _is_intact(store, told) else None


def _is_intact(store: Store, entry: ShardEntry) -> bool:
    """Whether the tar that was told of is there.

    Raises:
        CorruptSampleError: it is there and is not what was told.
    """
    if not entry.num_samples:
        return True
    try:
        found = store.sha256(entry.name)
    except NotFoundInStoreError:
        return False
    if found != entry.sha256:
        raise CorruptSampleError(
            f"{store.url}/{entry.name}: SHA-256 {found[:12]}..., but {entry.sha256[:12]}... was "
            f"written; the shard is damaged: {MEND_SHARD}"
        )
    return True


def _capture_all(task: ShardTask, rejects: list[Reject]) -> Iterator[Sample]:
    """Give the samples of the shapes that can be rendered; add the others to `rejects`."""
    known = {reject.source_id for reject in rejects}
    for shape in task.shapes:
        if shape.source_id in known:
            continue
        try:
            yield _child(task.capture, task.limits).capture(shape)
        except MeshError as error:
            rejects.append(Reject(shape.source_id, error.reason, str(error)))


@cache
def _child(config: CaptureConfig, limits: CaptureLimits) -> LimitedCapture:
    """Keep one child from shard to shard: starting one takes as long as dozens of shapes."""
    child = LimitedCapture(config, limits)
    atexit.register(child.close)
    return child
