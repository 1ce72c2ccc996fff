"""Parts whose hashes are right and whose rows were made up are refused, whatever is in them."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sets import make_sample

from shards.columns import ShardEntry
from shards.errors import ManifestError
from shards.manifest import load_manifest, part_name, publish_manifest, shard_name
from shards.reader import Request, ShardReader
from shards.store import LocalStore
from shards.tables import SAMPLES_SCHEMA, encode_part
from shards.verify import EXIT_DAMAGED, verify
from shards.writer import write_shard


@pytest.fixture
def forge(tmp_path):
    """Make a set of two samples whose part says what it is made to."""
    store = LocalStore(tmp_path / "set")
    info = write_shard(store, shard_name(0), [make_sample(0), make_sample(1)])

    def forge(change=lambda table: table, store_schema=True, **told):
        claimed = replace(info, num_bytes=told.get("num_bytes", info.num_bytes))
        written = pq.read_table(pa.BufferReader(encode_part(claimed)))
        table = change(written).replace_schema_metadata(written.schema.metadata)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, store_schema=store_schema)
        store.put_new(part_name(info.name), buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        entry = ShardEntry(info.name, info.num_bytes, 2, info.sha256, digest, ())
        publish_manifest(store, [replace(entry, **told)])
        return store.url

    return forge


def _first(column, value):
    """Put a value into the first place of the first row of a column of lists."""

    def change(table):
        rows = table[column].to_pylist()
        rows[0][0] = value
        return _with(table, column, pa.array(rows, SAMPLES_SCHEMA.field(column).type))

    return change


def _with(table, column, array):
    return table.set_column(table.schema.get_field_index(column), column, array)


def _no_text(column):
    def change(table):
        edges = pa.array([0, 1, 2], pa.int32()).buffers()[1]
        array = pa.Array.from_buffers(pa.string(), 2, [None, edges, pa.py_buffer(b"\xff\xfe")])
        return _with(table, column, array)

    return change


def _past_int64(table):
    """Offset and length whose sum is negative."""
    return _first("length", 1 << 62)(_first("offset", (1 << 63) - 1)(table))


def _many_names(table):
    """More names than have codes of 16 bits; each once."""
    names = [[f"{row}/{n}" for n in range(40_000)] for row in range(2)]
    zeros = pa.array([[0] * 40_000] * 2, pa.list_(pa.int64()))
    table = _with(table, "member", pa.array(names, pa.list_(pa.string())))
    table = _with(_with(table, "offset", zeros), "length", zeros)
    return _with(table, "crc32", zeros.cast(pa.list_(pa.uint32())))


def _refused(url, match):
    with pytest.raises(ManifestError, match=match):
        list(ShardReader(url, on_corrupt="skip_and_count").stream([Request(0)]))
    assert verify(url).exit_code == EXIT_DAMAGED


def test_an_unchanged_part_is_read(forge):
    url = forge()
    assert ShardReader(url).read(Request(1)).source_id == "set/shape-1"
    assert verify(url).findings == ()


@pytest.mark.parametrize("column", ["member", "offset", "length", "crc32"])
def test_empty_cells_within_lists_are_refused(forge, column):
    _refused(forge(_first(column, None)), "no empty cells")


@pytest.mark.parametrize("column", ["key", "source_id", "label"])
def test_texts_that_are_no_utf8_are_refused(forge, column):
    url = forge(_no_text(column))
    _refused(url, "UTF8")
    with pytest.raises(ManifestError, match="UTF8"):
        load_manifest(url).read_texts(column)


@pytest.mark.parametrize(
    "change",
    [_past_int64, _first("offset", -1), _first("length", -1), _first("length", 1 << 40)],
)
def test_members_outside_their_shard_are_refused_however_large_the_numbers(forge, change):
    _refused(forge(change), "lies outside its shard")


def test_a_member_larger_than_any_is_refused(forge):
    """The shard is told to be large enough for it."""
    url = forge(_first("length", 2 << 30), num_bytes=4 << 30)
    _refused(url, f"larger than {1 << 30}")


def test_a_part_of_more_names_than_codes_is_refused(forge):
    _refused(forge(_many_names), "80000 names of members")


@pytest.mark.parametrize("told", [{"num_samples": -2}, {"num_bytes": -1}])
def test_counts_below_zero_are_refused(forge, told):
    with pytest.raises(ManifestError, match="not negative"):
        load_manifest(forge(**told))


def test_rows_that_nobody_told_of_are_refused_before_they_are_read(forge):
    """Repeated rows take no place in Parquet: 500 KB may be gigabytes in memory."""

    def many(table):
        rows = 200_000
        none = pa.array(np.zeros(rows + 1, np.int32))
        text = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(rows, np.int32)), pa.array(["long" * 250])
        )
        zeros = pa.array(np.zeros(rows, np.int32))
        lists = [
            pa.ListArray.from_arrays(none, pa.array([], kind))
            for kind in (pa.string(), pa.int64(), pa.int64(), pa.uint32())
        ]
        return pa.table([text, text, text, zeros, zeros, *lists], names=SAMPLES_SCHEMA.names)

    url, before = forge(many, store_schema=False), pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    _refused(url, "200000 rows")
    assert pool.max_memory() - before < 100 << 20
