"""How do the manifest's columns become Parquet, and back? Column types are fixed and checked.

The samples of a shard are a file of their own, its part: whoever writes the shard writes it, and a
reader may fetch some shards' rows alone. The part's key `shard` of Parquet's own metadata says what
the tar is and which shapes were rejected.
"""

# pyright: basic
# (pyarrow ships no types; what leaves this file is NumPy and our own.)

import io
import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.columns import Reject, SampleColumns, ShardEntry, ShardInfo
from shards.errors import MEND_MANIFEST, ManifestError
from shards.store import is_sha256

_TEXT = pa.string()
SHARDS_SCHEMA = pa.schema(
    [
        ("name", _TEXT),
        ("num_bytes", pa.int64()),
        ("num_samples", pa.int64()),
        ("sha256", _TEXT),
        ("part_sha256", _TEXT),
    ]
)
SAMPLES_SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("source_id", _TEXT),
        ("label", _TEXT),
        ("num_points", pa.int32()),
        ("num_views", pa.int32()),
        ("member", pa.list_(_TEXT)),
        ("offset", pa.list_(pa.int64())),
        ("length", pa.list_(pa.int64())),
        ("crc32", pa.list_(pa.uint32())),
    ]
)
REJECTS_SCHEMA = pa.schema(
    [("shard", _TEXT), ("source_id", _TEXT), ("reason", _TEXT), ("detail", _TEXT)]
)
_ABOUT_SHARD = b"shard"
_MAX_NAMES = 1 << 16  # as SampleColumns.name_code has it
_REPEATED = ("label", "num_points", "num_views", "member.list.element", "shard", "reason")
_PACKED = {
    "offset.list.element": "DELTA_BINARY_PACKED",
    "length.list.element": "DELTA_BINARY_PACKED",
    "crc32.list.element": "PLAIN",
}

TextColumn = Literal["key", "source_id", "label"]


def encode_shards(entries: Sequence[ShardEntry]) -> bytes:
    """Write a row per shard."""
    columns = [[getattr(entry, name) for entry in entries] for name in SHARDS_SCHEMA.names]
    return _write(pa.table(columns, schema=SHARDS_SCHEMA))


def encode_rejects(entries: Sequence[ShardEntry]) -> bytes:
    """Write a row per reject, in the order of the shards that they were to be in."""
    rows = [(entry.name, reject) for entry in entries for reject in entry.rejects]
    columns = [
        [shard for shard, _ in rows],
        [reject.source_id for _, reject in rows],
        [reject.reason for _, reject in rows],
        [reject.detail for _, reject in rows],
    ]
    return _write(pa.table(columns, schema=REJECTS_SCHEMA))


def encode_part(shard: ShardInfo) -> bytes:
    """Write a row per sample of a shard, and what the shard itself is."""
    samples = shard.samples
    edges = pa.array(samples.first_member, pa.int32())
    names = np.array(samples.member_names, dtype=object)[samples.name_code]
    columns = [
        pa.array(samples.keys, _TEXT),
        pa.array(samples.source_ids, _TEXT),
        pa.array(samples.labels, _TEXT),
        pa.array(samples.num_points),
        pa.array(samples.num_views),
        pa.ListArray.from_arrays(edges, pa.array(names, _TEXT)),
        pa.ListArray.from_arrays(edges, pa.array(samples.offset)),
        pa.ListArray.from_arrays(edges, pa.array(samples.length)),
        pa.ListArray.from_arrays(edges, pa.array(samples.crc32)),
    ]
    about = {
        "name": shard.name,
        "num_bytes": shard.num_bytes,
        "sha256": shard.sha256,
        "rejects": [[each.source_id, each.reason, each.detail] for each in shard.rejects],
    }
    schema = SAMPLES_SCHEMA.with_metadata({_ABOUT_SHARD: json.dumps(about)})
    return _write(pa.table(columns, schema=schema))


def _write(table: pa.Table) -> bytes:
    """Write a table as it is read fastest: no dictionary or compression where it saves nothing."""
    packed = [name for name in _PACKED if name.partition(".")[0] in table.schema.names]
    content = io.BytesIO()
    leaves = _leaves(table.schema)
    # Its types know only one choice for all columns.
    compression: Any = dict.fromkeys(leaves, "zstd") | dict.fromkeys(packed, "none")
    use_dictionary: Any = [name for name in leaves if name in _REPEATED]
    pq.write_table(
        table,
        content,
        compression=compression,
        use_dictionary=use_dictionary,
        column_encoding={name: _PACKED[name] for name in packed},
        row_group_size=max(1, len(table)),
    )
    return content.getvalue()


def _leaves(schema: pa.Schema) -> list[str]:
    """Name the columns of a table as Parquet does."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
    ]


def decode_shards(content: bytes) -> tuple[ShardEntry, ...]:
    """Read the rows of shards.parquet; which shapes were rejected stands elsewhere."""
    rows: list[dict[str, Any]] = _read(content, SHARDS_SCHEMA, "shards").to_pylist()
    for row in rows:
        if row["num_bytes"] < 0 or row["num_samples"] < 0:
            raise ManifestError(
                f"shards.parquet: {row['num_samples']} samples, {row['num_bytes']} bytes of "
                f"{row['name']}: counts are not negative; {MEND_MANIFEST}"
            )
        # One of no samples has no tar.
        hashes = [row["part_sha256"], *([row["sha256"]] if row["num_samples"] else [])]
        if wrong := [told for told in hashes if not is_sha256(told)]:
            raise ManifestError(
                f"shards.parquet: {wrong[0]!r}, told of {row['name']}, is no SHA-256; "
                f"{MEND_MANIFEST}"
            )
    return tuple(ShardEntry(**row, rejects=()) for row in rows)


def decode_rejects(content: bytes) -> list[tuple[str, Reject]]:
    """Read the rows of rejects.parquet: name of the shard, and the reject."""
    rows: list[dict[str, str]] = _read(content, REJECTS_SCHEMA, "rejects").to_pylist()
    return [(row.pop("shard"), Reject(**row)) for row in rows]


def decode_part(content: bytes, num_samples: int | None = None) -> ShardInfo:
    """Read the part of a shard.

    Args:
        content: the file.
        num_samples: how many are told of elsewhere; another number is refused before memory is
            taken for it. None where nothing is known.
    """
    table = _read(content, SAMPLES_SCHEMA, "part", num_rows=num_samples).combine_chunks()
    members = _list_values(table, "member")
    if len(members.dictionary) > _MAX_NAMES:
        raise ManifestError(
            f"part.parquet: {len(members.dictionary)} names of members: at most {_MAX_NAMES} are "
            f"told apart; {MEND_MANIFEST}"
        )
    edges = _list_edges(table, "member")
    for name in ("offset", "length", "crc32"):
        if not np.array_equal(edges, _list_edges(table, name)):
            raise ManifestError(
                f"part.parquet: column {name} has lists of other lengths than column member; "
                f"{MEND_MANIFEST}"
            )
    columns = SampleColumns(
        keys=_texts(table, "key"),
        source_ids=_texts(table, "source_id"),
        labels=_texts(table, "label"),
        num_points=_numbers(table, "num_points"),
        num_views=_numbers(table, "num_views"),
        first_member=edges,
        member_names=tuple(members.dictionary.to_pylist()),
        name_code=members.indices.to_numpy(zero_copy_only=False).astype(np.uint16),
        offset=_list_values(table, "offset").to_numpy(),
        length=_list_values(table, "length").to_numpy(),
        crc32=_list_values(table, "crc32").to_numpy(),
    )
    return _shard_of_part(table.schema, columns)


def decode_texts(
    content: bytes, names: Sequence[TextColumn], num_samples: int
) -> list[tuple[str, ...]]:
    """Read some columns of a part, a text per sample; the others are not decoded."""
    table = _read(content, SAMPLES_SCHEMA, "part", names, num_samples)
    return [_texts(table, name) for name in names]


def _texts(table: pa.Table, name: TextColumn) -> tuple[str, ...]:
    """Read a column of texts; samples of one label share one string."""
    if name != "label":
        return tuple(table[name].to_pylist())
    encoded = _column(table.combine_chunks(), name).dictionary_encode()
    labels = [sys.intern(label) for label in encoded.dictionary.to_pylist()]
    return tuple(labels[code] for code in encoded.indices.to_pylist())


def _shard_of_part(schema: pa.Schema, samples: SampleColumns) -> ShardInfo:
    try:
        about = json.loads((schema.metadata or {})[_ABOUT_SHARD])
        return ShardInfo(
            name=str(about["name"]),
            num_bytes=int(about["num_bytes"]),
            sha256=str(about["sha256"]),
            samples=samples,
            rejects=tuple(Reject(*map(str, reject)) for reject in about["rejects"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"part.parquet: does not say which shard it is of ({error}); {MEND_MANIFEST}"
        ) from error


def _read(
    content: bytes,
    schema: pa.Schema,
    name: str,
    columns: Sequence[str] | None = None,
    num_rows: int | None = None,
) -> pa.Table:
    """Read a table, or some of its columns; all must be there, with the types of this version."""
    try:
        # Not pq.read_table: it starts threads of Arrow's, which may abort the process at its end.
        found = pq.ParquetFile(pa.BufferReader(content)).schema_arrow
        # The names of members as codes, as they are stored: a third of the time of a part.
        codes = ["member.list.element"] if schema is SAMPLES_SCHEMA else None
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=codes)
        # Repeated rows take no place in a file, and all the memory there is once they are read.
        if num_rows not in (None, file.metadata.num_rows):
            raise ManifestError(
                f"{name}.parquet has {file.metadata.num_rows} rows, and {num_rows} are told of; "
                f"{MEND_MANIFEST}"
            )
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
        table.validate(full=True)  # texts are UTF-8, codes of names are below their number
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{name}.parquet cannot be read ({error}); {MEND_MANIFEST}") from error
    if found != schema or any(map(_has_empty_cells, table.columns)):
        raise ManifestError(
            f"{name}.parquet has the columns {found.names}: exactly {schema.names} are "
            f"needed, with the types of this version and no empty cells; {MEND_MANIFEST}"
        )
    return table


def _has_empty_cells(column: pa.ChunkedArray) -> bool:
    """Tell whether a value is missing, in a list too."""
    if column.null_count:
        return True
    lists = column.chunks if pa.types.is_list(column.type) else []
    return any(chunk.flatten().null_count for chunk in lists)


def _column(table: pa.Table, name: str) -> pa.Array:
    """One column as one piece of memory."""
    chunks = table[name].chunks
    return chunks[0] if chunks else pa.array([], table.schema.field(name).type)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return _column(table, name).to_numpy()


def _list_values(table: pa.Table, name: str) -> pa.Array:
    return _column(table, name).flatten()


def _list_edges(table: pa.Table, name: str) -> np.ndarray:
    edges = _column(table, name).offsets.to_numpy().astype(np.int64)
    return edges - edges[0]
