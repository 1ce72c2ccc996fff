"""Labelled clouds go to shards and come back as they were; what is wrong is told."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from shards.cloud_sets import CloudReader, write_clouds
from shards.clouds import (
    CLOUD_META,
    LABEL_COUNTS,
    PLACES,
    POINT_LABELS,
    Cloud,
    decode_cloud,
    encode_cloud,
)
from shards.columns import shard_name
from shards.describe import inspect, stats
from shards.errors import CodecError, CorruptSampleError
from shards.manifest import load_manifest, publish_manifest, publish_part
from shards.member_reader import Request
from shards.reader import ShardReader
from shards.schema import COLORS, NORMALS, POINTS, SchemaError
from shards.sealed import DATASET_FILE, seal
from shards.store import LocalStore, put_once
from shards.verify import verify

ALL_MEMBERS = (NORMALS, COLORS, POINT_LABELS, PLACES, LABEL_COUNTS)


def make_cloud(number: int, num_points: int = 50) -> Cloud:
    rng = np.random.default_rng(number)
    return Cloud(
        source_id=f"clouds/{number}",
        label=("mug", "lamp")[number % 2],
        points=(1000 * rng.normal(size=(num_points, 3))).astype(np.float32),
        normals=rng.normal(size=(num_points, 3)).astype(np.float32),
        colors=rng.integers(0, 256, (num_points, 3), dtype=np.uint8),
        point_labels=rng.integers(0, 50, num_points, dtype=np.uint8),
        places=rng.random((num_points, 3), dtype=np.float32),
        label_counts=rng.integers(0, 9, (num_points, 4), dtype=np.uint32),
    )


@pytest.fixture
def cloud_set(tmp_path):
    store = LocalStore(tmp_path / "clouds")
    entries = [
        publish_part(store, write_clouds(store, shard_name(shard), map(make_cloud, numbers)))
        for shard, numbers in enumerate([range(3), range(3, 5)])
    ]
    put_once(store, DATASET_FILE, seal({"class_names": ["a", "b"]}))
    publish_manifest(store, entries, kind="clouds")
    return load_manifest(store)


def assert_equal(found: Cloud, told: Cloud) -> None:
    assert (found.source_id, found.label) == (told.source_id, told.label)
    for name, array in told.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def test_clouds_come_back_bit_for_bit(cloud_set):
    reader = CloudReader(cloud_set, members=ALL_MEMBERS)
    for number, cloud in enumerate(reader.stream(map(Request, range(5)))):
        assert cloud is not None
        assert_equal(cloud, make_cloud(number))


def test_only_what_is_asked_for_is_read(cloud_set):
    cloud = CloudReader(cloud_set, members=(POINT_LABELS,)).read(Request(4))
    assert cloud is not None
    told = make_cloud(4)
    bare = Cloud(told.source_id, told.label, told.points)
    assert_equal(cloud, replace(bare, point_labels=told.point_labels))


def test_clouds_of_different_lengths_and_bare_ones_share_a_set(tmp_path):
    bare = [Cloud(f"{n}", "", np.full((n, 3), n, np.float32)) for n in (1, 7, 1)[:2]]
    store = LocalStore(tmp_path)
    publish_manifest(
        store, [publish_part(store, write_clouds(store, shard_name(0), bare))], "clouds"
    )
    reader = CloudReader(tmp_path)
    for number, told in enumerate(bare):
        cloud = reader.read(Request(number))
        assert cloud is not None
        assert_equal(cloud, told)
    with pytest.raises(SchemaError, match=r"normals\.npy of '1'"):
        CloudReader(tmp_path, members=(NORMALS,)).read(Request(0))


def test_verify_stats_and_inspect_know_clouds(cloud_set):
    assert verify(cloud_set.url).findings == ()
    counts = stats(cloud_set.url)
    assert counts.labels == {"lamp": 2, "mug": 3}
    assert counts.points == (50, 50)
    assert '"clouds/3"' in inspect(cloud_set.url, "clouds/3")


def test_each_flipped_byte_of_a_member_is_noticed_by_reader_and_verify(cloud_set, tmp_path):
    shard = tmp_path / "clouds" / shard_name(0)
    shard.chmod(0o644)
    whole = shard.read_bytes()
    for span in cloud_set.row(1).members:
        damaged = bytearray(whole)
        damaged[span.offset + span.length // 2] ^= 1
        shard.write_bytes(damaged)
        with pytest.raises(CorruptSampleError):
            CloudReader(cloud_set.url, members=ALL_MEMBERS).read(Request(1))
        skipping = CloudReader(cloud_set.url, "skip_and_count", members=ALL_MEMBERS)
        assert [cloud is None for cloud in skipping.stream(map(Request, range(5)))] == [
            number == 1 for number in range(5)
        ]
        assert [finding.kind for finding in verify(cloud_set.url).findings] == ["damaged"]


def test_a_reader_of_the_other_kind_refuses(cloud_set, shard_set):
    with pytest.raises(SchemaError, match="holds clouds, and shapes are needed"):
        ShardReader(cloud_set.url)
    with pytest.raises(SchemaError, match="holds shapes, and clouds are needed"):
        CloudReader(shard_set.url)


def test_another_kind_in_manifest_json_is_damage(cloud_set, tmp_path):
    path = tmp_path / "clouds" / "manifest.json"
    path.chmod(0o644)
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps(told | {"kind": "meshes"}, indent=2, sort_keys=True) + "\n")
    assert [finding.kind for finding in verify(cloud_set.url).findings] == ["damaged"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_id": ""}, "without a source id"),
        ({"points": np.zeros((0, 3), np.float32)}, "no points"),
        ({"points": np.zeros((50, 3))}, "float64"),
        ({"points": np.full((50, 3), np.nan, np.float32)}, "NaN or infinity in 50 rows"),
        ({"normals": np.zeros((49, 3), np.float32)}, r"\(49, 3\)"),
        ({"point_labels": np.zeros(50, np.int64)}, "int64"),
        ({"label_counts": np.zeros((50, 4), np.int32)}, "int32"),
        ({"label_counts": np.zeros((49, 4), np.uint32)}, r"\(49, 4\)"),
        ({"label_counts": np.zeros(50, np.uint32)}, r"\(50,\)"),
        ({"label_counts": np.zeros((50, 0), np.uint32)}, r"\(50, 0\)"),
    ],
)
def test_a_broken_cloud_is_not_written(tmp_path, change, message):
    fields = {name: getattr(make_cloud(0), name) for name in Cloud.__slots__}
    broken = object.__new__(Cloud)  # past the annotations, as a caller without type checks is
    for name, value in (fields | change).items():
        object.__setattr__(broken, name, value)
    with pytest.raises(SchemaError, match=message):
        write_clouds(LocalStore(tmp_path), shard_name(0), [broken])
    assert list(tmp_path.glob("*.tar")) == []


def test_a_source_id_that_comes_twice_is_not_written(tmp_path):
    with pytest.raises(SchemaError, match="comes twice"):
        write_clouds(LocalStore(tmp_path), shard_name(0), [make_cloud(0), make_cloud(0)])


@pytest.mark.parametrize(
    ("member", "content"),
    [
        (CLOUD_META, b"[]"),
        (CLOUD_META, b'{"label":1,"source_id":"a"}'),
        (CLOUD_META, b"[" * 100_000),
        ("features.pkl", b"\x80\x04N."),
        (POINTS, b"\x80\x04N."),
    ],
)
def test_hostile_members_are_refused(member, content):
    with pytest.raises(CodecError):
        decode_cloud(encode_cloud(make_cloud(0)) | {member: content})


def test_an_array_of_objects_is_refused():
    objects = io.BytesIO()
    np.save(objects, np.array([[None] * 3] * 50, object), allow_pickle=True)
    with pytest.raises(CodecError):
        decode_cloud(encode_cloud(make_cloud(0)) | {POINTS: objects.getvalue()})


def test_rows_that_do_not_match_are_noticed_without_checking_values():
    short = encode_cloud(make_cloud(0, num_points=49))[NORMALS]
    with pytest.raises(SchemaError, match="differ in length"):
        decode_cloud(encode_cloud(make_cloud(0)) | {NORMALS: short}, check_values=False)


@pytest.mark.parametrize("field", ["source_id", "label"])
def test_names_that_are_not_utf8_are_refused(field):
    with pytest.raises(SchemaError, match=r"'caf\\udce9': is not UTF-8.*rename"):
        encode_cloud(replace(make_cloud(0), **{field: "caf\udce9"}))
