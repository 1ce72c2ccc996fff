import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_sets import make_sample, make_set, publish_set

from shards.column_sets import Column, load_columns, publish_columns, write_columns
from shards.columns import Reject, empty_shard, shard_name
from shards.errors import (
    AlreadyInStoreError,
    CorruptSampleError,
    ManifestError,
    NotWholeError,
)
from shards.manifest import load_manifest, load_part, publish_part
from shards.reader import Request, ShardReader
from shards.schema import POINTS, SchemaError
from shards.store import LocalStore
from shards.verify import EXIT_MISSING, verify
from shards.writer import write_shard

POOLED = Column("pooled.npy", "<f2", (5,))
LOCAL = Column("local_map.npy", "|i1", (0, 2, 2), per_view=True)
COLUMNS = (POOLED, LOCAL)


def _arrays(number):
    """The columns of sample `number` of a small set."""
    rng = np.random.default_rng(number)
    arrays = {"pooled.npy": rng.normal(size=5).astype(np.float16)}
    for view in range(3):
        arrays[LOCAL.member_of(view)] = rng.integers(-128, 128, (number + 1, 2, 2)).astype(np.int8)
    return arrays


def _write(base, folder, columns=COLUMNS, arrays=_arrays):
    store = LocalStore(folder)
    entries, first = [], 0
    for number, shard in enumerate(base.shards):
        numbers = range(first, first + shard.num_samples)
        entries.append(write_columns(store, base, number, columns, map(arrays, numbers)))
        first += shard.num_samples
    publish_columns(store, base, columns, entries)
    return folder


@pytest.fixture
def features(shard_set, tmp_path):
    return _write(shard_set, tmp_path / "features")


def test_columns_are_joined_to_their_samples(shard_set, features):
    reader = ShardReader(shard_set.url, columns=[features])
    for number in (0, 5, 11):
        sample, expected = reader.read(Request(number, (2, 0))), _arrays(number)
        assert sample.meta.source_id == f"set/shape-{number}"
        assert sample.extras.keys() == {
            "pooled.npy",
            "view00.local_map.npy",
            "view02.local_map.npy",
        }
        for name, array in sample.extras.items():
            assert array.dtype == expected[name].dtype
            assert np.array_equal(array, expected[name])
    assert reader.read(Request(3)).extras.keys() == {"pooled.npy"}
    assert ShardReader(shard_set.url).read(Request(3)).extras == {}


def test_two_column_sets_are_joined_unless_a_name_comes_twice(shard_set, features, tmp_path):
    labels = (Column("label_id.npy", "<i4", ()),)
    other = _write(
        shard_set, tmp_path / "labels", labels, lambda n: {"label_id.npy": np.array(n, np.int32)}
    )
    reader = ShardReader(shard_set.url, columns=[features, other])
    assert reader.read(Request(7)).extras["label_id.npy"] == 7
    assert len(reader.read(Request(7)).extras) == 2
    with pytest.raises(SchemaError, match=r"'local_map\.npy' is in two of the column sets"):
        ShardReader(shard_set.url, columns=[features, features])


def test_the_same_columns_are_the_same_bytes_and_what_is_finished_is_found_again(
    shard_set, features, tmp_path
):
    again = _write(shard_set, tmp_path / "again")
    for path in features.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(features)).read_bytes()
    store = LocalStore(features)
    entries = [load_part(store, shard.name) for shard in shard_set.shards]
    assert None not in entries
    publish_columns(store, shard_set, COLUMNS, entries)
    _write(shard_set, features)
    with pytest.raises(AlreadyInStoreError):
        _write(shard_set, features, arrays=lambda n: _arrays(n + 1))


def test_a_column_set_is_not_whole_before_its_end(shard_set, tmp_path):
    store = LocalStore(tmp_path / "features")
    write_columns(store, shard_set, 0, COLUMNS, map(_arrays, range(4)))
    with pytest.raises(NotWholeError, match=r"no columns\.json"):
        load_columns(store)
    with pytest.raises(ManifestError, match="columns of 1 shards, not of the 3"):
        publish_columns(store, shard_set, COLUMNS, [load_part(store, shard_name(0))])


def test_columns_of_another_set_are_refused(shard_set, features, tmp_path):
    other = make_set(tmp_path / "other", num_shards=3, per_shard=3)
    with pytest.raises(ManifestError, match="make them again of that one"):
        ShardReader(other.url, columns=[features])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("pooled.npy"), "exactly"),
        (lambda arrays: arrays.update(more=np.zeros(3)), "exactly"),
        (lambda arrays: arrays.update({"pooled.npy": np.zeros(5)}), "the schema wants <f2"),
        (lambda arrays: arrays.update({"pooled.npy": np.zeros(6, np.float16)}), r"wants <f2 \(5\)"),
        (lambda arrays: arrays.pop("view01.local_map.npy"), "exactly"),
    ],
)
def test_arrays_that_are_not_what_was_declared_are_refused(shard_set, tmp_path, change, message):
    def spoilt(number):
        arrays = _arrays(number)
        if number == 2:
            change(arrays)
        return arrays

    with pytest.raises(SchemaError, match=message):
        _write(shard_set, tmp_path / "features", arrays=spoilt)
    assert not list((tmp_path / "features").glob("*.tar"))


@pytest.mark.parametrize(("count", "message"), [(3, "end before sample"), (5, "more than its 4")])
def test_too_few_and_too_many_samples_are_refused(shard_set, tmp_path, count, message):
    with pytest.raises(SchemaError, match=message):
        write_columns(LocalStore(tmp_path), shard_set, 0, COLUMNS, map(_arrays, range(count)))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("points.npy", "<f2"),
        ("view00.npy", "<f2"),
        ("a/b.npy", "<f2"),
        ("../x.npy", "<f2"),
        ("features.pkl", "<f2"),
        ("features.npy", "|O"),
        ("features.npy", "float16"),
        ("features.npy", "<f3"),
        ("features.npy", "|f2"),
    ],
)
def test_columns_that_are_no_plain_arrays_are_refused(name, dtype):
    with pytest.raises(SchemaError, match=r"column .*(name|numbers)"):
        Column(name, dtype, ())


def test_a_flipped_bit_of_a_column_is_caught_and_counted(shard_set, features):
    path = features / shard_name(1)
    content = bytearray(path.read_bytes())
    span = load_columns(features).parts[1].samples.row(1).members[0]
    content[span.offset + span.length - 1] ^= 1
    path.write_bytes(content)
    told = rf"sample 5.*column set {features}: {span.name}"
    with pytest.raises(CorruptSampleError, match=told):
        ShardReader(shard_set.url, columns=[features]).read(Request(5))
    reader = ShardReader(shard_set.url, "skip_and_count", columns=[features])
    read = [sample is not None for sample in reader.stream(map(Request, range(12)))]
    assert read == [number != 5 for number in range(12)]


def test_columns_whose_keys_are_in_another_order_are_caught(shard_set, features, tmp_path):
    """All hashes are right: the writer was not ours."""
    store = LocalStore(tmp_path / "other")
    entries = []
    for number in range(3):
        told = load_columns(features).parts[number]
        keys = told.samples.keys[::-1]
        entries.append(publish_part(store, replace(told, samples=replace(told.samples, keys=keys))))
        shutil.copy(features / told.name, tmp_path / "other")
    publish_columns(store, shard_set, COLUMNS, entries)
    with pytest.raises(CorruptSampleError, match=r"has the columns of .* in the place of"):
        ShardReader(shard_set, columns=[tmp_path / "other"]).read(Request(5))
    findings = verify(tmp_path / "other").findings
    assert [finding.name for finding in findings] == [shard_name(number) for number in range(3)]


def test_verify_finds_what_is_wrong_with_columns(shard_set, features):
    assert (verify(features).findings, verify(features).num_samples) == ((), 12)
    path = features / shard_name(1)
    content = path.read_bytes()
    for position in (5, 700, len(content) - 1):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        assert [each.name for each in verify(features).findings] == [shard_name(1)]
    path.unlink()
    shutil.copy(features / shard_name(0), features / "more.tar")
    kinds = {(each.kind, each.name) for each in verify(features).findings}
    assert kinds == {("missing", shard_name(1)), ("foreign", "more.tar")}
    (features / "columns.json").unlink()
    assert verify(features).exit_code == EXIT_MISSING


def test_a_shard_without_samples_has_no_columns(tmp_path):
    store = LocalStore(tmp_path / "base")
    infos = [
        write_shard(store, shard_name(0), [make_sample(0)]),
        empty_shard(shard_name(1), [Reject("set/lost", "no_faces", "it has no faces")]),
        write_shard(store, shard_name(2), [make_sample(1)]),
    ]
    base = publish_set(store, infos)
    features = _write(base, tmp_path / "features")
    read = ShardReader(base, columns=[features]).read(Request(1))
    assert np.array_equal(read.extras["pooled.npy"], _arrays(1)["pooled.npy"])


def test_an_edited_column_manifest_is_refused(shard_set, features):
    path = features / "columns.json"
    record = json.loads(path.read_bytes())
    for field, value in (
        ("num_samples", 13),
        ("schema_version", 1),
        ("columns", [{"name": "x.pkl", "dtype": "<f2", "shape": [], "per_view": False}]),
        ("columns", None),
        ("sha256", {}),
    ):
        path.write_text(json.dumps(record | {field: value}, indent=2, sort_keys=True) + "\n")
        with pytest.raises(ManifestError):
            load_columns(features)
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    assert load_columns(features).columns == COLUMNS


def test_members_are_left_out_as_usual_beside_columns(shard_set, features):
    read = ShardReader(shard_set.url, members=(POINTS,), columns=[Path(features)]).read(Request(2))
    assert (read.num_views, len(read.extras)) == (0, 1)
    assert load_manifest(shard_set.url).num_samples == 12


@pytest.mark.parametrize("view", [3, -1])
def test_columns_of_a_view_that_is_not_there_are_refused_and_not_left_out(
    shard_set, features, view
):
    reader = ShardReader(shard_set.url, columns=[features])
    assert len(reader.read(Request(2, (0, 1, 2), pictures=False)).extras) == 4
    with pytest.raises(SchemaError, match="it has 3 views, counted from 0"):
        reader.read(Request(2, (0, view), pictures=False))


@pytest.mark.parametrize(
    ("name", "told"),
    [("other.npy", r"view00\.local_map\.npy"), ("pooled.npy", r"pooled\.npy")],
    ids=["missing", "twice"],
)
def test_a_column_that_its_part_does_not_have_once_is_caught(
    shard_set, features, tmp_path, name, told
):
    """All hashes are right: the writer was not ours."""
    store = LocalStore(tmp_path / "other")
    entries = []
    for number in range(3):
        part = load_columns(features).parts[number]
        names = tuple(
            name if each == "view00.local_map.npy" else each for each in part.samples.member_names
        )
        samples = replace(part.samples, member_names=names)
        entries.append(publish_part(store, replace(part, samples=samples)))
        shutil.copy(features / part.name, tmp_path / "other")
    publish_columns(store, shard_set, COLUMNS, entries)
    reader = ShardReader(shard_set, "skip_and_count", columns=[tmp_path / "other"])
    assert reader.read(Request(5, (0,))) is None
    assert f"column set {tmp_path / 'other'}" in reader.corrupt[0].detail
    assert reader.read(Request(5, (0,), pictures=False)) is None
    with pytest.raises(CorruptSampleError, match=f"{told} is not there once"):
        reader.read_members(Request(5, (0,)))
