"""How does a sample get further members, without its shards being written again? By column sets.

A column set is a shard set beside another one, its base: a shard for each shard of the base, with
the same name, and in it the same keys in the same order. Its members are plain arrays, declared
once for the set: cached features, other labels, anything of numbers.

    DIR/shard-000000.tar ...                        <key>.features.npy, or <key>.view00.features.npy
    DIR/manifest/samples/shard-000000.parquet ...   as in a shard set
    DIR/manifest/shards.parquet                     as in a shard set
    DIR/columns.json                                written last; names the base by its digest

Writing one, a shard at a time, in any order, on any machine; what is finished is found again:

    base = load_manifest("shards")
    columns = (Column("features.npy", "<f2", (20, 1280)),)
    store = open_store("features")
    entries = [
        load_part(store, shard.name)
        or write_columns(store, base, number, columns, arrays_of_each_sample(number))
        for number, shard in enumerate(base.shards)
    ]
    publish_columns(store, base, columns, entries)

Reading it: `ShardReader("shards", columns=["features"])` gives samples whose `extras` hold it.
"""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from shards.cache import DiskCache
from shards.codec import decode_array, encode_array
from shards.columns import MemberSpan, SampleRow, ShardEntry, empty_shard
from shards.errors import (
    CodecError,
    CorruptSampleError,
    ManifestError,
    NotFoundInStoreError,
    NotWholeError,
)
from shards.manifest import SHARDS_TABLE, Manifest, content_digest, publish_part
from shards.parts import Parts, checked_file
from shards.schema import SCHEMA_VERSION, SchemaError, view_prefix
from shards.store import Store, as_store, put_once
from shards.tables import decode_shards, encode_shards
from shards.writer import TarSample, check_shard_name, read_tar, write_tar

COLUMNS_MANIFEST = "columns.json"

_NAME = re.compile(r"(?!view)[a-z][a-z0-9_]{0,30}\.npy")
_RESERVED = ("points.npy", "normals.npy", "colors.npy", "cameras.npy")
_DTYPE = re.compile(r"[<|][biuf]\d{1,2}")
_MEND = "remove the column set and write it again"


@dataclass(frozen=True, slots=True)
class Column:
    """One array that every sample of a column set has.

    Attributes:
        name: of the member, such as `features.npy`: small letters, digits and _.
        dtype: as numpy.dtype.str says it, such as `<f2`, `|i1`.
        shape: 0 stands for any length, another one in each sample.
        per_view: one array for each view of the sample; a reader gets those of the views that it
            asks for, named by `member_of`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    per_view: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise SchemaError(
                f"column {self.name!r}: a name is small letters, digits and _, ends in .npy, does "
                "not begin with view and is no member of a sample; choose another"
            )
        if not _DTYPE.fullmatch(self.dtype):
            raise SchemaError(
                f"column {self.name}: dtype {self.dtype!r} is none of plain numbers as "
                "numpy.dtype.str says it, such as '<f2' or '|i1'"
            )

    def member_of(self, view: int) -> str:
        """Name the member that holds this column of a view, or of the sample."""
        return f"{view_prefix(view)}.{self.name}" if self.per_view else self.name


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSet:
    """A whole column set.

    Attributes:
        url: its folder or bucket prefix.
        base_digest: of the shard set that it belongs to.
        columns: what every sample has.
        shards: in the order of the base's.
        parts: where the members of each shard's samples lie.
    """

    url: str
    base_digest: str
    columns: tuple[Column, ...]
    shards: tuple[ShardEntry, ...]
    parts: Parts

    def check_base(self, base: Manifest) -> None:
        """Refuse a set that was made of other samples.

        Raises:
            ManifestError: it belongs to another shard set.
        """
        counts = [[shard.num_samples for shard in of.shards] for of in (self, base)]
        if self.base_digest != base.digest or counts[0] != counts[1]:
            raise ManifestError(
                f"{self.url}: its columns are of the shard set {self.base_digest[:12]}..., and "
                f"{base.url} is {base.digest[:12]}...; make them again of that one"
            )


def write_columns(
    store: Store,
    base: Manifest,
    number: int,
    columns: Sequence[Column],
    samples: Iterable[Mapping[str, np.ndarray]],
) -> ShardEntry:
    """Write the columns of one shard of the base, and tell of it; with this it is finished.

    Repeating the same work succeeds.

    Args:
        store: of the column set.
        base: the shard set.
        number: of the shard.
        columns: what every sample has; the same for all shards.
        samples: arrays by member name, for each sample of the shard, in its order.

    Raises:
        SchemaError: a sample lacks a member, has one too many or one of another dtype or shape, or
            there are more or fewer samples than in the base.
        StoreError: the store refused, or holds other content under this name.
    """
    name = base.shards[number].name
    rows = base.parts[number].samples.rows()
    if not rows:
        return publish_part(store, empty_shard(name, ()))

    def encoded() -> Iterator[TarSample]:
        given = iter(samples)
        for row in rows:
            arrays = next(given, None)
            if arrays is None:
                raise SchemaError(f"{name}: columns end before sample {row.key}; give all samples")
            yield row.key, _encode(row, columns, arrays)
        if next(given, None) is not None:
            raise SchemaError(f"{name}: columns of more than its {len(rows)} samples; leave them")

    written = write_tar(
        store, name, encoded(), lambda file: index_columns(file, name, rows, columns)
    )
    return publish_part(store, written)


def _encode(
    row: SampleRow, columns: Sequence[Column], arrays: Mapping[str, np.ndarray]
) -> dict[str, bytes]:
    column_of = _members(row, columns)
    if set(arrays) != set(column_of):
        raise SchemaError(
            f"{row.source_id!r}: columns {sorted(arrays)}; exactly {sorted(column_of)} are needed"
        )
    members: dict[str, bytes] = {}
    for member, column in sorted(column_of.items()):
        members[member] = encode_array(arrays[member])
        _decode(members[member], column, f"{member} of {row.source_id!r}")
    return members


def _members(row: SampleRow, columns: Sequence[Column]) -> dict[str, Column]:
    """Tell which members a sample has."""
    return {
        column.member_of(view): column
        for column in columns
        for view in range(row.num_views if column.per_view else 1)
    }


def _decode(content: bytes, column: Column, what: str) -> np.ndarray:
    try:
        return decode_array(content, column.dtype, column.shape)
    except CodecError as error:
        raise SchemaError(f"{what}: {error}") from error


def index_columns(
    file: io.BufferedIOBase, name: str, rows: Sequence[SampleRow], columns: Sequence[Column]
) -> list[SampleRow]:
    """Read a tar of columns through and tell where every member lies; every array is decoded.

    Args:
        file: the tar.
        name: of the shard, for messages.
        rows: of the base's shard.
        columns: what every sample has.

    Raises:
        CorruptSampleError: it does not hold exactly these columns of these samples.
    """
    found: list[SampleRow] = []
    try:
        for key, group in groupby(read_tar(file), key=lambda each: each[0].partition(".")[0]):
            row = rows[len(found)] if len(found) < len(rows) else None
            if row is None or row.key != key:
                raise SchemaError(f"{key} is not the sample that its base has in this place")
            found.append(replace(row, members=_index(row, list(group), columns)))
        if len(found) < len(rows):
            raise SchemaError(f"its base has {len(rows)} samples")
    except (tarfile.TarError, EOFError, SchemaError) as error:
        raise CorruptSampleError(
            f"{name}, after {len(found)} samples: {error}; the shard is damaged: {_MEND}"
        ) from error
    return found


def _index(
    row: SampleRow, found: Sequence[tuple[str, int, bytes]], columns: Sequence[Column]
) -> tuple[MemberSpan, ...]:
    column_of = _members(row, columns)
    spans: list[MemberSpan] = []
    for name, offset, content in found:
        member = name.partition(".")[2]
        if member not in column_of:
            raise SchemaError(f"{name} is no column of the set")
        _decode(content, column_of[member], name)
        spans.append(MemberSpan(member, offset, len(content), zlib.crc32(content)))
    if [span.name for span in spans] != sorted(column_of):
        raise SchemaError(f"{row.key} lacks a column, or has one twice")
    return tuple(spans)


def publish_columns(
    url: str | Path | Store,
    base: Manifest,
    columns: Sequence[Column],
    entries: Sequence[ShardEntry],
) -> None:
    """Make finished shards of columns a whole set; the last step.

    Publishing the same again succeeds; publishing something else into the same folder does not.

    Args:
        url: the set's folder or bucket prefix, or its store.
        base: the shard set.
        columns: what every sample has.
        entries: as `write_columns` or `load_part` gave them, one for each shard of the base.

    Raises:
        SchemaError: no column, or two of the same name.
        ManifestError: the shards are not those of the base.
        StoreError: the store refused, or holds another column set.
    """
    store = as_store(url)
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise SchemaError(f"columns {names}: at least one is needed, each with a name of its own")
    told = [(entry.name, entry.num_samples) for entry in entries]
    if told != [(shard.name, shard.num_samples) for shard in base.shards]:
        raise ManifestError(
            f"{store.url}: columns of {len(told)} shards, not of the {len(base.shards)} shards of "
            f"{base.url} in their order; write the columns of all of them"
        )
    table_sha256 = put_once(store, SHARDS_TABLE, encode_shards(entries))
    put_once(store, COLUMNS_MANIFEST, _summary(base.digest, columns, entries, table_sha256))


def _summary(
    base_digest: str, columns: Sequence[Column], entries: Sequence[ShardEntry], table_sha256: str
) -> bytes:
    record = {
        "schema_version": SCHEMA_VERSION,
        "base_digest": base_digest,
        "columns": [asdict(column) for column in columns],
        "digest": content_digest(entries),
        "num_shards": len(entries),
        "num_samples": sum(entry.num_samples for entry in entries),
        "num_bytes": sum(entry.num_bytes for entry in entries),
        "sha256": {SHARDS_TABLE: table_sha256},
    }
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def load_columns(url: str | Path | Store, cache: DiskCache | None = None) -> ColumnSet:
    """Open a column set; the shards and their parts are not read yet.

    Raises:
        NotWholeError: there is no columns.json.
        ManifestError: it is damaged or of another version.
        StoreError: the folder is missing or cannot be read.
    """
    store = as_store(url)
    try:
        content = store.get(COLUMNS_MANIFEST)
    except NotFoundInStoreError as error:
        store.list_names()  # a folder that is missing altogether has a clearer error
        raise NotWholeError(
            f"{store.url}: no {COLUMNS_MANIFEST}, so this is no whole column set; it is written "
            "last: let the writer run to its end, or run it again"
        ) from error
    base_digest, columns, table_sha256 = _read_summary(content, store.url)
    entries = decode_shards(checked_file(store, SHARDS_TABLE, table_sha256))
    for entry in entries:
        check_shard_name(entry.name)
    if content != _summary(base_digest, columns, entries, table_sha256):
        raise ManifestError(
            f"{store.url}/{COLUMNS_MANIFEST}: says other things than its table; it is damaged or "
            f"was edited: {_MEND}"
        )
    return ColumnSet(store.url, base_digest, columns, entries, Parts(store, entries, cache))


def _read_summary(content: bytes, url: str) -> tuple[str, tuple[Column, ...], str]:
    try:
        found = json.loads(content)
        version = found["schema_version"]
        columns = tuple(
            Column(
                str(each["name"]),
                str(each["dtype"]),
                tuple(map(int, each["shape"])),
                bool(each["per_view"]),
            )
            for each in found["columns"]
        )
        summary = str(found["base_digest"]), columns, str(found["sha256"][SHARDS_TABLE])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{url}/{COLUMNS_MANIFEST}: {content[:60]!r} is no column set ({error}); {_MEND}"
        ) from error
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{url}/{COLUMNS_MANIFEST}: schema version {version}; this program reads "
            f"{SCHEMA_VERSION}: read it with the version that wrote it, or write it again"
        )
    return summary
