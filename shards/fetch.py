"""How are the bytes of a sample fetched? By range, few at a time, every checksum compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from zlib_ng.zlib_ng import crc32

from shards.cache import DiskCache
from shards.columns import MemberSpan, ShardEntry
from shards.errors import CorruptSampleError
from shards.store import LocalStore, Store

# Reading this much too much costs less than a second request.
MAX_GAP_BYTES = {"disk": 16 << 10, "network": 256 << 10}

_OFFSET = itemgetter(1)  # of a MemberSpan

# Members that are fetched together, in the order in which they lie: the first byte and the length
# of them all, in bytes from the start of the shard, and each of them.
Run = tuple[int, int, list[MemberSpan]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the shards of a set lie, and where what is fetched of them is kept.

    Attributes:
        cache: not used for folders.
        max_gap_bytes: what is better read along than asked for again.
    """

    store: Store
    cache: DiskCache | None
    max_gap_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        is_disk = self.store.concurrency == 1
        object.__setattr__(self, "cache", None if is_disk else self.cache)
        object.__setattr__(self, "max_gap_bytes", MAX_GAP_BYTES["disk" if is_disk else "network"])

    def read(self, shard: ShardEntry, runs: Sequence[Run]) -> dict[str, bytes]:
        """Read members of one sample, every checksum right."""
        if self.cache is None:
            return self._fetch(shard.name, runs)
        spans = [span for *_, run in runs for span in run]
        found = self.cache.find(shard.sha256, spans)
        if missing := [span for span in spans if span.name not in found]:
            fetched = self._fetch(shard.name, coalesce(missing, self.max_gap_bytes))
            self.cache.keep(shard.sha256, [(each.offset, fetched[each.name]) for each in missing])
            found |= fetched
        return found

    def announce(self, shard: ShardEntry, runs: Sequence[Run]) -> None:
        """Say what will be read soon."""
        if isinstance(self.store, LocalStore):
            self.store.will_need(shard.name, [run[:2] for run in runs])

    def _fetch(self, shard: str, runs: Sequence[Run]) -> dict[str, bytes]:
        try:
            return self._fetch_once(shard, runs)
        except CorruptSampleError:
            # Perhaps on the way, or in a file that another one has replaced.
            if isinstance(self.store, LocalStore):
                self.store.reopen(shard)
            return self._fetch_once(shard, runs)

    def _fetch_once(self, shard: str, runs: Sequence[Run]) -> dict[str, bytes]:
        contents = self.store.get_ranges(shard, [run[:2] for run in runs])
        members: dict[str, bytes] = {}
        for (start, _, spans), content in zip(runs, contents, strict=True):
            for name, offset, length, checksum in spans:
                member = content[offset - start : offset - start + length]
                if crc32(member) != checksum or len(member) != length:
                    raise CorruptSampleError(
                        f"{name}, {length} bytes from {offset}, is not what was written "
                        f"({len(member)} bytes, CRC-32 {crc32(member):08x}, not {checksum:08x})"
                    )
                members[name] = member
        return members


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
