"""Which rows are in memory? Those of the shards used last: loaded when asked for, checked, bounded.

A set of ten million samples has some 6,600 parts. Whoever follows a plan needs those of one block
of it at a time (shards/plan.py), so these stay, and the others go.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakSet

import numpy as np

from shards.cache import DiskCache
from shards.columns import MAX_MEMBER_BYTES, ShardEntry, ShardInfo
from shards.errors import MEND_MANIFEST, ManifestError
from shards.store import Store, sha256
from shards.tables import TextColumn, decode_part, decode_texts

PARTS = "manifest/samples"
# The parts that a block of the plan touches have some 160,000 samples; 0.8 KB each with 20 views.
MAX_SAMPLES_IN_MEMORY = 1 << 18


_ALL: "WeakSet[Parts]" = WeakSet()


class Parts:
    """The parts of a set, by the number of the shard; threads may share it.

    May be pickled; what is loaded stays behind.
    """

    def __init__(
        self,
        store: Store,
        entries: Sequence[ShardEntry],
        cache: DiskCache | None = None,
        max_samples: int = MAX_SAMPLES_IN_MEMORY,
    ) -> None:
        """Know where parts are; none is read yet.

        Args:
            store: of the set.
            entries: of its shards, as the manifest told of them.
            cache: where parts are kept that come from a bucket.
            max_samples: whose rows are kept; the part used last stays, however large.
        """
        self._store, self._entries, self._max_samples = store, tuple(entries), max_samples
        self._cache = cache if store.concurrency > 1 else None
        self._forget()
        _ALL.add(self)

    def _forget(self) -> None:
        """Load everything anew, as a forked child does: what a thread began stayed behind."""
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, ShardInfo] = OrderedDict()
        self._loading: dict[int, Future[ShardInfo]] = {}
        self._num_samples = 0

    def __reduce__(self) -> tuple[type["Parts"], tuple[object, ...]]:
        return Parts, (self._store, self._entries, self._cache, self._max_samples)

    def __getitem__(self, number: int) -> ShardInfo:
        """Give the samples of a shard; threads that ask at once wait for one reading.

        Raises:
            ManifestError: the part is not what the manifest says.
            StoreError: it cannot be read.
        """
        try:  # without the lock; one that another thread pushes out meanwhile is a KeyError too
            self._loaded.move_to_end(number)
            return self._loaded[number]
        except KeyError:
            pass
        with self._lock:
            if (part := self._loaded.get(number)) is not None:
                return part
            loading = self._loading.get(number)
            mine = loading is None
            if loading is None:
                loading = self._loading[number] = Future()
        if mine:
            self._settle(number, loading)
        return loading.result()

    def _settle(self, number: int, loading: Future[ShardInfo]) -> None:
        """Load a part for all who wait for it."""
        try:
            part = self._load(number)
        except BaseException as error:
            with self._lock:
                del self._loading[number]
            loading.set_exception(error)
        else:
            with self._lock:
                del self._loading[number]
                self._loaded[number] = part
                self._num_samples += part.num_samples
                while self._num_samples > self._max_samples and len(self._loaded) > 1:
                    _, oldest = self._loaded.popitem(last=False)
                    self._num_samples -= oldest.num_samples
            loading.set_result(part)

    def _load(self, number: int) -> ShardInfo:
        entry = self._entries[number]
        shard = decode_part(self._content(entry), entry.num_samples)
        found = (shard.name, shard.num_bytes, shard.num_samples, shard.sha256, shard.rejects)
        told = (entry.name, entry.num_bytes, entry.num_samples, entry.sha256, entry.rejects)
        if found != told:
            raise ManifestError(
                f"{self._store.url}/{part_name(entry.name)}: says other things of {entry.name} "
                f"than the tables of the manifest; {MEND_MANIFEST}"
            )
        _check_places(shard, self._store.url)
        return shard

    def read_texts(self, names: Sequence[TextColumn]) -> tuple[tuple[str, ...], ...]:
        """Read some columns of all samples; nothing of it is kept.

        Every part is read whole, because only the whole of it can be checked.
        """

        def texts(entry: ShardEntry) -> list[tuple[str, ...]]:
            return decode_texts(self._content(entry), names, entry.num_samples)

        if self._store.concurrency == 1:
            found = list(map(texts, self._entries))
        else:
            with ThreadPoolExecutor(self._store.concurrency) as threads:
                found = list(threads.map(texts, self._entries))
        return tuple(
            tuple(text for part in found for text in part[column]) for column in range(len(names))
        )

    def _content(self, entry: ShardEntry) -> bytes:
        kept = self._cache.find_whole(entry.part_sha256) if self._cache else None
        if kept is not None:
            return kept
        content = checked_file(self._store, part_name(entry.name), entry.part_sha256)
        if self._cache:
            self._cache.keep(entry.part_sha256, [(0, content)])
        return content


def part_name(shard: str) -> str:
    """Name the Parquet file that tells of a shard."""
    return f"{PARTS}/{shard.removesuffix('.tar')}.parquet"


def checked_file(store: Store, name: str, expected_sha256: str) -> bytes:
    """Read a file of the manifest.

    Raises:
        ManifestError: its content is not what it should be.
        StoreError: it cannot be read.
    """
    content = store.get(name)
    if (found := sha256(content)) != expected_sha256:
        raise ManifestError(
            f"{store.url}/{name}: SHA-256 {found[:12]}..., but the manifest says "
            f"{expected_sha256[:12]}...; the file is damaged: {MEND_MANIFEST}"
        )
    return content


def _check_places(shard: ShardInfo, url: str) -> None:
    """Members lie inside their shard, and none is larger than any is."""
    offset, length = shard.samples.offset, shard.samples.length
    most = np.minimum(shard.num_bytes - offset, MAX_MEMBER_BYTES)  # a sum might pass 64 bits
    if (offset < 0).any() or (length < 0).any() or (length > most).any():
        raise ManifestError(
            f"{url}: a member lies outside its shard {shard.name} of {shard.num_bytes} bytes, or "
            f"is larger than {MAX_MEMBER_BYTES}; {MEND_MANIFEST}"
        )


def _forget_all() -> None:
    for parts in _ALL:
        parts._forget()


os.register_at_fork(after_in_child=_forget_all)
