"""How are the bytes of a sample fetched? By range, few at a time, every checksum compared."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from zlib_ng.zlib_ng import crc32

from shards.cache import DiskCache
from shards.columns import MemberSpan, ShardEntry
from shards.errors import CorruptSampleError
from shards.store import LocalStore, Store

# So much too much is fetched, of a bucket, or read ahead, of a disk, rather than asked for apart.
MAX_GAP_BYTES = {"disk": 16 << 10, "network": 256 << 10}

# After so many looks in a row at what the system's cache holds, it is taken to hold the rest.
MIN_BURSTS_CACHED = 128

_OFFSET = itemgetter(1)  # of a MemberSpan

# Members that are fetched together, in the order in which they lie: the first byte and the length
# of them all, in bytes from the start of the shard, and each of them.
Run = tuple[int, int, list[MemberSpan]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the shards of a set lie, and where what is fetched of them is kept.

    Attributes:
        cache: not used for folders.
    """

    store: Store
    cache: DiskCache | None

    def __post_init__(self) -> None:
        if isinstance(self.store, LocalStore):
            object.__setattr__(self, "cache", None)

    def read(self, shard: ShardEntry, spans: Sequence[MemberSpan]) -> dict[str, bytes]:
        """Read members of one sample, every checksum right."""
        if self.cache is None:
            return self._fetch(shard.name, spans)
        found = self.cache.find(shard.sha256, spans)
        if missing := [span for span in spans if span.name not in found]:
            fetched = self._fetch(shard.name, missing)
            self.cache.keep(shard.sha256, [(each.offset, fetched[each.name]) for each in missing])
            found |= fetched
        return found

    def _fetch(self, shard: str, spans: Sequence[MemberSpan]) -> dict[str, bytes]:
        try:
            return self._fetch_once(shard, spans)
        except CorruptSampleError:
            # Perhaps on the way, or in a file that another one has replaced.
            if isinstance(self.store, LocalStore):
                self.store.reopen(shard)
            return self._fetch_once(shard, spans)

    def _fetch_once(self, shard: str, spans: Sequence[MemberSpan]) -> dict[str, bytes]:
        if isinstance(self.store, LocalStore):
            # One by one: reading a gap along would cost more than another call. See ReadAhead.
            contents = self.store.get_ranges(shard, [span[1:3] for span in spans])
            found = zip(spans, contents, strict=True)
        else:
            found = _get_coalesced(self.store, shard, spans)
        members: dict[str, bytes] = {}
        for (name, offset, length, checksum), member in found:
            if crc32(member) != checksum or len(member) != length:
                raise CorruptSampleError(
                    f"{name}, {length} bytes from {offset}, is not what was written "
                    f"({len(member)} bytes, CRC-32 {crc32(member):08x}, not {checksum:08x})"
                )
            members[name] = member
        return members


def _get_coalesced(
    store: Store, shard: str, spans: Sequence[MemberSpan]
) -> Iterator[tuple[MemberSpan, bytes]]:
    runs = coalesce(spans, MAX_GAP_BYTES["network"])
    contents = store.get_ranges(shard, [run[:2] for run in runs])
    for (start, _, together), content in zip(runs, contents, strict=True):
        for span in together:
            first = span.offset - start
            yield span, content[first : first + span.length]


class ReadAhead:
    """Has the system begin to read what will be read soon, unless its cache seems to hold it all.

    Asking costs some 3 us a sample, a tenth of all that is done here besides decoding. So of every
    burst of samples one is looked at, and none is asked for while the last few were in the cache.
    """

    def __init__(self, store: LocalStore) -> None:
        """Know nothing of the cache yet."""
        self._store = store
        self._num_cached = 0  # of the bursts looked at, one after another

    def announce(self, burst: Sequence[tuple[str, Sequence[MemberSpan]]]) -> None:
        """Say what will be read soon: of which shard, by name, which members."""
        if not burst:
            return
        name, spans = burst[0]
        is_cached = self._store.is_cached(name, spans[-1].offset)
        self._num_cached = self._num_cached + 1 if is_cached else 0
        if self._num_cached < MIN_BURSTS_CACHED:
            for name, spans in burst:
                runs = coalesce(spans, MAX_GAP_BYTES["disk"])
                self._store.will_need(name, [run[:2] for run in runs])


def coalesce(spans: Iterable[MemberSpan], max_gap_bytes: int) -> list[Run]:
    """Put spans that lie close together into one run; each run is one request.

    Args:
        spans: of one shard, in any order.
        max_gap_bytes: between two spans of a run, at most.
    """
    runs: list[Run] = []
    end = 0
    for span in sorted(spans, key=_OFFSET):
        _, offset, length, _ = span
        if runs and offset - end <= max_gap_bytes:
            start, _, together = runs[-1]
            together.append(span)
            runs[-1] = start, offset + length - start, together
        else:
            runs.append((offset, length, [span]))
        end = offset + length
    return runs
