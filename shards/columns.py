"""What is known of every shard and sample without opening a tar? The rows of the manifest.

Columns, not objects: the samples of a shard are a few arrays.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt16, UInt32

from shards.schema import check_text

# More is never allocated for one member, whatever a header or a manifest claims.
MAX_MEMBER_BYTES = 1 << 30


class MemberSpan(NamedTuple):
    """Where one member of a sample lies in its shard; a tuple, for readers make many.

    Attributes:
        name: member name, as in shards/schema.py.
        offset: first byte of the content, from the start of the shard.
        length: of the content, in bytes, without the tar's padding.
        crc32: of the content, as in zip files.
    """

    name: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What the manifest says of one sample; members in the order in which they lie."""

    key: str
    source_id: str
    label: str
    num_points: int
    num_views: int
    members: tuple[MemberSpan, ...]


@dataclass(frozen=True, slots=True)
class Reject:
    """A shape that is not in the set, and why.

    Attributes:
        source_id: where the shape came from.
        reason: reason code, to count by.
        detail: one sentence for people.

    Raises:
        SchemaError: a text that is not UTF-8; the manifest could not be published with it.
    """

    source_id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        for text in (self.source_id, self.reason, self.detail):
            check_text("reject", text)


@dataclass(frozen=True, slots=True, eq=False)
class SampleColumns:
    """Samples as columns: S samples, M members of all of them together.

    Attributes:
        first_member: sample s has the members first_member[s] to first_member[s + 1] - 1.
        member_names: the distinct names; `name_code` points into it.
        offset: as in MemberSpan, one per member; so are length and crc32.
        _places: by the names' codes in one sample, as bytes: where each name stands among them.
    """

    keys: Sequence[str]
    source_ids: Sequence[str]
    labels: Sequence[str]
    num_points: Int32[np.ndarray, " S"]
    num_views: Int32[np.ndarray, " S"]
    first_member: Int64[np.ndarray, " S+1"]
    member_names: tuple[str, ...]
    name_code: UInt16[np.ndarray, " M"]
    offset: Int64[np.ndarray, " M"]
    length: Int64[np.ndarray, " M"]
    crc32: UInt32[np.ndarray, " M"]
    _places: dict[bytes, dict[str, int]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        """S, the number of samples."""
        return len(self.keys)

    def row(self, sample: int) -> SampleRow:
        """Gather what is known of one sample."""
        start, stop = (int(edge) for edge in self.first_member[sample : sample + 2])
        name_code: list[int] = self.name_code[start:stop].tolist()
        offset: list[int] = self.offset[start:stop].tolist()
        length: list[int] = self.length[start:stop].tolist()
        crc32: list[int] = self.crc32[start:stop].tolist()
        return SampleRow(
            key=self.keys[sample],
            source_id=self.source_ids[sample],
            label=self.labels[sample],
            num_points=int(self.num_points[sample]),
            num_views=int(self.num_views[sample]),
            members=tuple(
                map(
                    MemberSpan,
                    [self.member_names[code] for code in name_code],
                    offset,
                    length,
                    crc32,
                )
            ),
        )

    def spans(self, sample: int, names: Iterable[str]) -> list[MemberSpan]:
        """Tell where the named members of a sample lie, in the order of the names.

        Raises:
            KeyError: the sample has no such member, or has it twice.
        """
        start, stop = self.first_member.item(sample), self.first_member.item(sample + 1)
        codes = self.name_code[start:stop].tobytes()
        places = self._places.get(codes) or self._find_places(codes)
        spans: list[MemberSpan] = []
        for name in names:
            at = start + places[name]
            spans.append(
                MemberSpan(name, self.offset.item(at), self.length.item(at), self.crc32.item(at))
            )
        return spans

    def _find_places(self, codes: bytes) -> dict[str, int]:
        """Tell which name stands where in a sample; kept, for samples of a set are mostly alike."""
        names = [self.member_names[code] for code in np.frombuffer(codes, np.uint16).tolist()]
        count = Counter(names)
        places = {name: place for place, name in enumerate(names) if count[name] == 1}
        self._places[codes] = places
        return places

    def rows(self) -> list[SampleRow]:
        """Gather what is known of every sample; for a shard's worth of them."""
        return [self.row(sample) for sample in range(len(self))]


def columns_of(rows: Sequence[SampleRow]) -> SampleColumns:
    """Turn rows into columns."""
    spans = [span for row in rows for span in row.members]
    member_names = tuple(sorted({span.name for span in spans}))
    codes = {name: code for code, name in enumerate(member_names)}
    counts = [len(row.members) for row in rows]
    return SampleColumns(
        keys=tuple(row.key for row in rows),
        source_ids=tuple(row.source_id for row in rows),
        labels=tuple(row.label for row in rows),
        num_points=np.array([row.num_points for row in rows], np.int32),
        num_views=np.array([row.num_views for row in rows], np.int32),
        first_member=np.cumsum([0, *counts], dtype=np.int64),
        member_names=member_names,
        name_code=np.array([codes[span.name] for span in spans], np.uint16),
        offset=np.array([span.offset for span in spans], np.int64),
        length=np.array([span.length for span in spans], np.int64),
        crc32=np.array([span.crc32 for span in spans], np.uint32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class ShardInfo:
    """One tar, the samples in it, in the order in which they lie, and what should have been in it.

    Attributes:
        name: relative to the set's folder.
        num_bytes: of the whole file; 0 where there is none, because every shape was rejected.
        sha256: of the whole file, in hexadecimal; "" where there is none.
        samples: what lies in it.
        rejects: shapes that were to be in it, and why they are not.
    """

    name: str
    num_bytes: int
    sha256: str
    samples: SampleColumns
    rejects: tuple[Reject, ...] = ()

    @property
    def num_samples(self) -> int:
        """How many samples the tar holds."""
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What the manifest says of one shard without its samples: small, however large the shard.

    Attributes:
        name: relative to the set's folder; num_bytes and sha256 as in ShardInfo.
        num_samples: how many samples the tar holds.
        part_sha256: of the shard's own Parquet file, in hexadecimal.
        rejects: as in ShardInfo.
    """

    name: str
    num_bytes: int
    num_samples: int
    sha256: str
    part_sha256: str
    rejects: tuple[Reject, ...]


def empty_shard(name: str, rejects: Sequence[Reject]) -> ShardInfo:
    """Tell of a shard that was never written, because each of its shapes was rejected."""
    return ShardInfo(name, 0, "", columns_of(()), tuple(rejects))


def shard_name(number: int) -> str:
    """Name a shard by its number."""
    return f"shard-{number:06d}.tar"
