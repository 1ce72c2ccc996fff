"""How are samples of any kind read? By range: only the members asked for, each one checked.

The manifest says where every member lies, so no tar is parsed and nothing else is fetched. What
order samples come in is not decided here but in shards/plan.py.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from shards.cache import CacheConfig, DiskCache
from shards.codec import decode_array
from shards.column_manifest import Column, ColumnSet, load_columns
from shards.columns import MemberSpan, SampleColumns
from shards.errors import CodecError, CorruptSampleError
from shards.fetch import ReadAhead, Source
from shards.manifest import Manifest, load_manifest
from shards.schema import SchemaError, view_member
from shards.store import LocalStore, open_store
from shards.summary import SetKind

OnCorrupt = Literal["fail", "skip_and_count"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which views of which sample.

    Attributes:
        sample_index: row in the manifest.
        views: whose pictures are wanted, and whose columns; none for a cloud alone.
        pictures: whether they are; else only the columns of those views are read.
    """

    sample_index: int
    views: tuple[int, ...] = ()
    pictures: bool = True


@dataclass(frozen=True, slots=True)
class CorruptSample:
    """A sample that was skipped: where it lies and what is wrong with it."""

    sample_index: int
    key: str
    shard: str
    detail: str


@runtime_checkable
class Stored(Protocol):
    """What is read, of whatever kind: it tells its name, and holds what was read along."""

    @property
    def source_id(self) -> str:
        """Where it came from."""
        ...

    @property
    def extras(self) -> dict[str, np.ndarray]:
        """Arrays of column sets, by member name."""
        ...


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True, slots=True)
class SampleKind(Generic[S]):
    """What samples of a kind are made of.

    Attributes:
        name: as the manifest has it.
        arrays: members that may be asked for.
        needed: members that are always read.
        decode: what a sample is, given members whose checksums are right.
    """

    name: SetKind
    arrays: tuple[str, ...]
    needed: tuple[str, ...]
    decode: Callable[[Mapping[str, bytes]], S]


class MemberReader(Generic[S]):
    """Reads samples of one kind from a set; may be pickled and sent to another process.

    Attributes:
        kind: what is read.
        manifest: of the set.
        corrupt: what was skipped so far, each sample once, in the order of asking.
    """

    def __init__(
        self,
        kind: SampleKind[S],
        url_or_manifest: str | Path | Manifest,
        on_corrupt: OnCorrupt,
        members: Sequence[str],
        columns: Sequence[str | Path],
        cache: CacheConfig | None,
    ) -> None:
        """Open a set; the arguments and errors are those of shards/reader.py's ShardReader."""
        if unknown := set(members) - {*kind.arrays, *kind.needed}:
            raise SchemaError(
                f"no member {min(unknown)!r} to read: the arrays are {', '.join(kind.arrays)}; "
                "pictures are asked for by Request.views"
            )
        disk = DiskCache(cache) if cache else None
        is_manifest = isinstance(url_or_manifest, Manifest)
        self.manifest = url_or_manifest if is_manifest else load_manifest(url_or_manifest, disk)
        if self.manifest.kind != kind.name:
            raise SchemaError(
                f"{self.manifest.url} holds {self.manifest.kind}, and {kind.name} are needed here: "
                "give the folder of such a set"
            )
        self.kind = kind
        self.on_corrupt: OnCorrupt = on_corrupt
        self.corrupt: list[CorruptSample] = []
        self._known_corrupt: set[int] = set()
        self._members = tuple(sorted({*members, *kind.needed}))
        self._source = Source(open_store(self.manifest.url), disk)
        self._ahead: ReadAhead | None = None
        self._columns = tuple(load_columns(url, disk) for url in columns)
        for each in self._columns:
            each.check_base(self.manifest)
        self._column_sources = tuple(Source(open_store(each.url), disk) for each in self._columns)
        _refuse_repeats(self._columns)

    def read(self, request: Request) -> S | None:
        """Read one sample; None if it is damaged and damage is to be skipped.

        Raises:
            CorruptSampleError: the sample is damaged and `on_corrupt` is "fail".
            SchemaError: a view that the sample does not have.
            StoreError: the shard is missing or cannot be read.
        """
        return self._settle(self._fetch(request))

    def stream(
        self, requests: Iterable[Request], read_ahead: int = 8
    ) -> Generator[S | None, None, None]:
        """Read samples in the order of their requests, some of them ahead.

        From a folder, the system is asked to read ahead; decoding is done here, in its turn. Over a
        network, threads read ahead while this generator is open, and have ended when it is
        exhausted, closed or has raised. Close it when you stop early (`contextlib.closing`).

        Args:
            requests: asked for one at a time, in the caller's thread.
            read_ahead: how many samples are held or under way at once.

        Raises:
            ValueError: read_ahead is less than 1.
            Exception: what `read` would raise, when that sample's turn has come; and whatever
                `requests` raises.
        """
        if read_ahead < 1:
            raise ValueError(f"read_ahead = {read_ahead}: at least 1 sample must be under way")
        sources = (self._source, *self._column_sources)
        concurrency = max(source.store.concurrency for source in sources)
        store = self._source.store
        if concurrency == 1 and isinstance(store, LocalStore):
            self._ahead = self._ahead or ReadAhead(store)
            return self._stream_from_disk(iter(requests), read_ahead, self._ahead)
        return self._stream(iter(requests), read_ahead, min(read_ahead, concurrency))

    def _stream_from_disk(
        self, requests: Iterator[Request], read_ahead: int, ahead: ReadAhead
    ) -> Generator[S | None, None, None]:
        # In bursts: of this code, little is left in the processor's caches after a picture.
        burst = max(1, read_ahead // 2)
        pending = deque(self._announce(islice(requests, read_ahead), ahead))
        while pending:
            now = [pending.popleft() for _ in range(min(burst, len(pending)))]
            for outcome in [self._attempt(place) for place in now]:
                if isinstance(outcome, Exception):
                    raise outcome
                yield self._settle(outcome)
            pending.extend(self._announce(islice(requests, burst), ahead))

    def _announce(
        self, requests: Iterable[Request], ahead: ReadAhead
    ) -> list["_Place | Exception"]:
        """Find samples, and have the system begin to read them."""
        places = [self._try_to_find(request) for request in requests]
        shards = self.manifest.shards
        ahead.announce(
            [(shards[p.shard].name, p.spans) for p in places if not isinstance(p, Exception)]
        )
        return places

    def _try_to_find(self, request: Request) -> "_Place | Exception":
        try:
            return self._find(request)
        except Exception as error:  # told when its turn has come
            return error

    def _attempt(self, place: "_Place | Exception") -> S | CorruptSample | Exception:
        if isinstance(place, Exception):
            return place
        try:
            return self._load(place)
        except Exception as error:
            return error

    def _stream(
        self, requests: Iterator[Request], read_ahead: int, num_threads: int
    ) -> Generator[S | None, None, None]:
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="shard-reader")
        pending: deque[Future[S | CorruptSample]] = deque()
        try:
            pending.extend(pool.submit(self._fetch, each) for each in islice(requests, read_ahead))
            while pending:
                outcome = pending.popleft().result()
                pending.extend(pool.submit(self._fetch, each) for each in islice(requests, 1))
                yield self._settle(outcome)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def refuse(self, sample_index: int, detail: str) -> None:
        """Count a sample that was read as damaged: its checksums are right, its content is not.

        Args:
            sample_index: row in the manifest.
            detail: what is wrong with it.

        Raises:
            CorruptSampleError: `on_corrupt` is "fail".
        """
        row, shard = self.manifest.row(sample_index), self.manifest.shard_of(sample_index)
        self._settle(CorruptSample(sample_index, row.key, shard.name, detail))

    def _settle(self, outcome: S | CorruptSample) -> S | None:
        """Count damage in the caller's thread, so that its order is that of the requests."""
        if not isinstance(outcome, CorruptSample):
            return outcome
        if self.on_corrupt == "fail":
            raise CorruptSampleError(
                f"sample {outcome.sample_index} (key {outcome.key}) in {outcome.shard}: "
                f"{outcome.detail}; `python -m shards verify {self.manifest.url}` says how to mend "
                "it; or read with on_corrupt=skip_and_count"
            )
        if outcome.sample_index not in self._known_corrupt:
            self._known_corrupt.add(outcome.sample_index)
            self.corrupt.append(outcome)
        return None

    def read_members(self, request: Request) -> dict[str, bytes]:
        """Read the members of a sample as they lie in the shards, columns included, checked.

        Raises:
            CorruptSampleError: bytes are not what was written, whatever `on_corrupt` says.
            SchemaError: a view that the sample does not have.
            StoreError: a shard is missing or cannot be read.
        """
        place = self._find(request)
        members = self._source.read(self.manifest.shards[place.shard], place.spans)
        for members_of_set, _ in self._read_columns(place):
            members |= members_of_set
        return members

    def _fetch(self, request: Request) -> S | CorruptSample:
        return self._load(self._find(request))

    def _find(self, request: Request) -> "_Place":
        number, row = self.manifest.locate(request.sample_index)
        samples = self.manifest.parts[number].samples
        names, views = self._members, request.views
        if views and request.pictures:
            names = (*names, *map(view_member, views))
        try:
            spans = samples.spans(row, names)
        except KeyError as error:
            raise _lacks(error.args[0], samples, row) from None
        if views and not request.pictures and not _has_views(samples, row, views):
            raise _lacks(f"views {views}", samples, row)
        return _Place(request, number, row, samples, spans)

    def _load(self, place: "_Place") -> S | CorruptSample:
        shard = self.manifest.shards[place.shard]
        try:
            members = self._source.read(shard, place.spans)
            sample = self.kind.decode(members)
            if sample.source_id != place.samples.source_ids[place.row]:
                raise SchemaError(f"it holds {sample.source_id!r}")
            for members, column_of in self._read_columns(place) if self._columns else ():
                for name, content in members.items():
                    column = column_of[name]
                    sample.extras[name] = decode_array(content, column.dtype, column.shape)
        except (CorruptSampleError, CodecError, SchemaError) as error:
            key = place.samples.keys[place.row]
            return CorruptSample(place.request.sample_index, key, shard.name, str(error))
        return sample

    def _read_columns(
        self, place: "_Place"
    ) -> Iterator[tuple[dict[str, bytes], dict[str, Column]]]:
        """Give the members of each column set, and which column each of them is."""
        key = place.samples.keys[place.row]
        for columns, source in zip(self._columns, self._column_sources, strict=True):
            samples = columns.parts[place.shard].samples
            if (found := samples.keys[place.row]) != key:
                raise CorruptSampleError(
                    f"{columns.url} has the columns of {found} in the place of {key}"
                )
            column_of = {
                column.member_of(view): column
                for column in columns.columns
                for view in (place.request.views if column.per_view else (0,))
            }
            try:
                spans = samples.spans(place.row, column_of)
            except KeyError as error:
                raise CorruptSampleError(
                    f"column set {columns.url}: {error.args[0]} is not there once"
                ) from None
            try:
                members = source.read(columns.shards[place.shard], spans)
            except CorruptSampleError as error:
                raise CorruptSampleError(f"column set {columns.url}: {error}") from error
            yield members, column_of


class _Place(NamedTuple):
    """Where a sample lies.

    Attributes:
        shard: number of its shard.
        row: in the shard's part, which has these samples.
        spans: the members wanted.
    """

    request: Request
    shard: int
    row: int
    samples: SampleColumns
    spans: list[MemberSpan]


def _has_views(samples: SampleColumns, row: int, views: Sequence[int]) -> bool:
    return 0 <= min(views) <= max(views) < samples.num_views.item(row)


def _lacks(what: str, samples: SampleColumns, row: int) -> SchemaError:
    return SchemaError(
        f"{what} of {samples.source_ids[row]!r}: it has {samples.num_views[row]} views, counted "
        "from 0, and not every array once; ask for what it has"
    )


def _refuse_repeats(sets: Sequence[ColumnSet]) -> None:
    names = [column.name for each in sets for column in each.columns]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise SchemaError(
            f"column {min(repeated)!r} is in two of the column sets: read one of them at a time"
        )
