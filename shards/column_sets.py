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
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from zlib_ng.zlib_ng import crc32

from shards.codec import decode_array, encode_array
from shards.column_manifest import (
    COLUMNS_MANIFEST,
    MEND_COLUMNS,
    Column,
    ColumnSet,
    columns_summary,
    load_columns,
)
from shards.columns import MemberSpan, SampleRow, ShardEntry, empty_shard
from shards.errors import CodecError, CorruptSampleError, ManifestError
from shards.manifest import Manifest, publish_part
from shards.schema import SchemaError
from shards.store import Store, as_store, put_once
from shards.summary import SHARDS_TABLE
from shards.tables import encode_shards
from shards.writer import TarSample, read_tar, write_tar

__all__ = [
    "Column",
    "ColumnSet",
    "index_columns",
    "load_columns",
    "publish_columns",
    "write_columns",
]


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
            f"{name}, after {len(found)} samples: {error}; the shard is damaged: {MEND_COLUMNS}"
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
        spans.append(MemberSpan(member, offset, len(content), crc32(content)))
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
    put_once(store, COLUMNS_MANIFEST, columns_summary(base.digest, columns, entries, table_sha256))
