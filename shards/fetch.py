"""How are the bytes of a sample fetched? By range, few at a time, every checksum compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from zlib_ng.zlib_ng import crc32

from shards.cache import DiskCache
from shards.columns import MemberSpan, ShardEntry
from shards.errors import CorruptSampleError
from shards.store import LocalStore, Store

# Reading this much too much costs less than a second request.
MAX_GAP_BYTES = {"disk": 16 << 10, "network": 256 << 10}


# Members that are fetched together, in the order in which they lie: the first byte and the length
# of them all, in bytes from the start of the shard, and each of them.
Run = tuple[int, int, list[MemberSpan]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the shards of a set lie, and where what is fetched of them is kept."""

    store: Store
    cache: DiskCache | None

    @property
    def max_gap_bytes(self) -> int:
        """What is better read along than asked for again."""
        return MAX_GAP_BYTES["disk" if self.store.concurrency == 1 else "network"]

    def read(self, shard: ShardEntry, runs: Sequence[Run]) -> dict[str, bytes]:
        """Read members of one sample, every checksum right."""
        if self.cache is None or self.store.concurrency == 1:
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

    def _fetch(self, name: str, runs: Sequence[Run]) -> dict[str, bytes]:
        try:
            return self._fetch_once(name, runs)
        except CorruptSampleError:
            # Perhaps on the way, or in a file that another one has replaced.
            if isinstance(self.store, LocalStore):
                self.store.reopen(name)
            return self._fetch_once(name, runs)

    def _fetch_once(self, name: str, runs: Sequence[Run]) -> dict[str, bytes]:
        contents = self.store.get_ranges(name, [run[:2] for run in runs])
        return {
            span.name: _checked(content, span, start)
            for (start, _, spans), content in zip(runs, contents, strict=True)
            for span in spans
        }


def coalesce(spans: Iterable[MemberSpan], max_gap_bytes: int) -> list[Run]:
    """Put spans that lie close together into one run; each run is one request.

    Args:
        spans: of one shard, in any order.
        max_gap_bytes: between two spans of a run, at most.
    """
    groups: list[list[MemberSpan]] = []
    end = 0
    for span in sorted(spans, key=attrgetter("offset")):
        _, offset, length, _ = span
        if groups and offset - end <= max_gap_bytes:
            groups[-1].append(span)
        else:
            groups.append([span])
        end = offset + length
    return [
        (group[0].offset, group[-1].offset + group[-1].length - group[0].offset, group)
        for group in groups
    ]


def _checked(content: bytes, span: MemberSpan, start: int) -> bytes:
    """Cut a member out of a run that begins at `start`, and compare its checksum."""
    first = span.offset - start
    member = content[first : first + span.length]
    if crc32(member) != span.crc32 or len(member) != span.length:
        raise CorruptSampleError(
            f"{span.name}, {span.length} bytes from {span.offset}, is not what was written "
            f"({len(member)} bytes, CRC-32 {crc32(member):08x}, not {span.crc32:08x})"
        )
    return member
