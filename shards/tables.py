"""How do the manifest's columns become Parquet, and back? Column types are fixed and checked.

One row group of samples.parquet is one shard, so that a reader may fetch some shards' rows alone.
"""

# pyright: basic
# (pyarrow ships no types; what leaves this file is NumPy and our own.)

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.columns import Reject, SampleColumns, ShardInfo
from shards.errors import MEND_MANIFEST, ManifestError

_TEXT = pa.string()
SHARDS_SCHEMA = pa.schema(
    [("name", _TEXT), ("num_bytes", pa.int64()), ("num_samples", pa.int64()), ("sha256", _TEXT)]
)
SAMPLES_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
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
REJECTS_SCHEMA = pa.schema([("source_id", _TEXT), ("reason", _TEXT), ("detail", _TEXT)])


def encode_shards(shards: Sequence[ShardInfo]) -> bytes:
    """Write a row per shard."""
    columns = [
        [shard.name for shard in shards],
        [shard.num_bytes for shard in shards],
        [shard.num_samples for shard in shards],
        [shard.sha256 for shard in shards],
    ]
    return _write([pa.table(columns, schema=SHARDS_SCHEMA)], SHARDS_SCHEMA)


def encode_samples(shards: Sequence[ShardInfo]) -> bytes:
    """Write a row per sample, a row group per shard."""
    groups = [_samples_table(number, shard.samples) for number, shard in enumerate(shards)]
    return _write(groups, SAMPLES_SCHEMA)


def encode_rejects(rejects: Sequence[Reject]) -> bytes:
    """Write a row per reject."""
    columns = [
        [reject.source_id for reject in rejects],
        [reject.reason for reject in rejects],
        [reject.detail for reject in rejects],
    ]
    return _write([pa.table(columns, schema=REJECTS_SCHEMA)], REJECTS_SCHEMA)


def _samples_table(number: int, samples: SampleColumns) -> pa.Table:
    edges = pa.array(samples.first_member, pa.int32())
    names = np.array(samples.member_names, dtype=object)[samples.name_code]
    columns = [
        pa.array(np.full(len(samples), number, np.int32)),
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
    return pa.table(columns, schema=SAMPLES_SCHEMA)


def _write(groups: Sequence[pa.Table], schema: pa.Schema) -> bytes:
    content = io.BytesIO()
    with pq.ParquetWriter(content, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, len(group)))
    return content.getvalue()


def decode_shards(content: bytes, samples: Sequence[SampleColumns]) -> tuple[ShardInfo, ...]:
    """Read the rows of shards.parquet and give each shard its samples."""
    rows: list[dict[str, Any]] = _read(content, SHARDS_SCHEMA, "shards").to_pylist()
    counted, found = [row["num_samples"] for row in rows], [len(columns) for columns in samples]
    if counted != found:
        raise ManifestError(
            f"shards.parquet counts {counted} samples, samples.parquet {found}: they must agree; "
            f"{MEND_MANIFEST}"
        )
    return tuple(
        ShardInfo(row["name"], row["num_bytes"], row["sha256"], columns)
        for row, columns in zip(rows, samples, strict=True)
    )


def decode_samples(content: bytes) -> tuple[SampleColumns, list[int]]:
    """Read samples.parquet.

    Returns:
        All samples, and where each shard's begin among them, with the total as the last number.
    """
    table = _read(content, SAMPLES_SCHEMA, "samples").combine_chunks()
    members = _list_values(table, "member").dictionary_encode()
    edges = _list_edges(table, "member")
    for name in ("offset", "length", "crc32"):
        if not np.array_equal(edges, _list_edges(table, name)):
            raise ManifestError(
                f"samples.parquet: column {name} has lists of other lengths than column member; "
                f"{MEND_MANIFEST}"
            )
    shard_of: np.ndarray = _numbers(table, "shard")
    num_shards = int(shard_of[-1]) + 1 if len(shard_of) else 0
    if (np.diff(shard_of, prepend=-1) < 0).any():
        raise ManifestError(f"samples.parquet: rows are not sorted by shard; {MEND_MANIFEST}")
    starts: list[int] = np.searchsorted(shard_of, np.arange(num_shards + 1)).tolist()
    columns = SampleColumns(
        keys=tuple(table["key"].to_pylist()),
        source_ids=tuple(table["source_id"].to_pylist()),
        labels=tuple(table["label"].to_pylist()),
        num_points=_numbers(table, "num_points"),
        num_views=_numbers(table, "num_views"),
        first_member=edges,
        member_names=tuple(members.dictionary.to_pylist()),
        name_code=members.indices.to_numpy(zero_copy_only=False).astype(np.uint16),
        offset=_list_values(table, "offset").to_numpy(),
        length=_list_values(table, "length").to_numpy(),
        crc32=_list_values(table, "crc32").to_numpy(),
    )
    return columns, starts


def decode_rejects(content: bytes) -> tuple[Reject, ...]:
    """Read the rows of rejects.parquet."""
    rows: list[dict[str, str]] = _read(content, REJECTS_SCHEMA, "rejects").to_pylist()
    return tuple(Reject(row["source_id"], row["reason"], row["detail"]) for row in rows)


def _read(content: bytes, schema: pa.Schema, name: str) -> pa.Table:
    try:
        # Not pq.read_table: it starts threads of Arrow's, which may abort the process at its end.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{name}.parquet cannot be read ({error}); {MEND_MANIFEST}") from error
    if table.schema != schema or any(column.null_count for column in table.columns):
        raise ManifestError(
            f"{name}.parquet has the columns {table.schema.names}: exactly {schema.names} are "
            f"needed, with the types of this version and no empty cells; {MEND_MANIFEST}"
        )
    return table


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
