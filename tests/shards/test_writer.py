import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from shards.codec import decode_picture, decode_sample, encode_sample
from shards.columns import Reject
from shards.errors import AlreadyInStoreError, CorruptSampleError
from shards.schema import SchemaError
from shards.store import LocalStore, RemoteStore
from shards.writer import index_shard, index_tar, write_shard, write_tar


def test_the_same_samples_give_the_same_file_in_any_store(tmp_path, samples_of):
    local = write_shard(LocalStore(tmp_path / "a"), "s.tar", samples_of(range(4)))
    (tmp_path / "b").mkdir()
    remote = write_shard(RemoteStore(f"file://{tmp_path}/b"), "t.tar", samples_of(range(4)))
    assert local.sha256 == remote.sha256
    content = (tmp_path / "a/s.tar").read_bytes()
    assert hashlib.sha256(content).hexdigest() == local.sha256
    assert len(content) == local.num_bytes
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["s.tar"]


def test_samples_and_members_lie_where_the_table_says(tmp_path, samples_of):
    samples = samples_of(range(4))
    info = write_shard(LocalStore(tmp_path), "s.tar", samples)
    content = (tmp_path / "s.tar").read_bytes()
    assert [row.key for row in info.samples.rows()] == [sample.key for sample in samples]
    for row, sample in zip(info.samples.rows(), samples, strict=True):
        assert (row.source_id, row.label) == (sample.meta.source_id, sample.meta.label)
        assert (row.num_points, row.num_views) == (sample.num_points, sample.num_views)
        found = {span.name: content[span.offset :][: span.length] for span in row.members}
        assert found == encode_sample(sample)
        assert all(span.crc32 == zlib.crc32(found[span.name]) for span in row.members)


WEBDATASET = """
import io, os, sys
os.environ["WDS_SECURE"] = "1"
import webdataset
from webdataset.writer import TarWriter
source, target, key_list = sys.argv[1:]
# The stock reader, then the stock writer: what the one reads, the other writes to the same bytes.
samples = list(webdataset.WebDataset(source, shardshuffle=False, empty_check=False))
assert [sample["__key__"] for sample in samples] == key_list.split(","), samples
with open(target, "wb") as file:
    with TarWriter(file, user="", group="", mtime=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
assert open(target, "rb").read() == open(source, "rb").read()
print(*sorted(set(samples[0])))
"""


@pytest.mark.skipif(importlib.util.find_spec("webdataset") is None, reason="needs webdataset")
def test_stock_webdataset_reads_our_shards_and_would_write_the_same_bytes(tmp_path, samples_of):
    samples = samples_of(range(3))
    write_shard(LocalStore(tmp_path), "s.tar", samples)
    keys = ",".join(sample.key for sample in samples)
    # In a process of its own: webdataset imports torch, and warns.
    done = subprocess.run(
        [sys.executable, "-c", WEBDATASET, tmp_path / "s.tar", tmp_path / "t.tar", keys],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(encode_sample(samples[0])) <= set(done.stdout.split())


def test_tar_reads_our_shards(tmp_path, samples_of):
    samples = samples_of(range(2))
    write_shard(LocalStore(tmp_path), "s.tar", samples)
    with tarfile.open(tmp_path / "s.tar") as tar:
        headers = tar.getmembers()
        contents = {header.name: tar.extractfile(header).read() for header in headers}
    assert {(h.mtime, h.uid, h.gid, h.uname, h.gname, h.mode) for h in headers} == {
        (0, 0, 0, "", "", 0o444)
    }
    for sample in samples:
        prefix = sample.key + "."
        members = {
            name.removeprefix(prefix): content
            for name, content in contents.items()
            if name.startswith(prefix)
        }
        decoded = decode_sample(members)
        assert np.array_equal(decoded.points, sample.points)
        assert decode_picture(decoded.pictures[0]).shape == (16, 16, 3)


def test_writing_a_shard_again_succeeds_and_another_one_of_its_name_fails(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    first = write_shard(store, "s.tar", samples_of(range(3)))
    assert write_shard(store, "s.tar", samples_of(range(3))).sha256 == first.sha256
    with pytest.raises(AlreadyInStoreError, match="remove it first"):
        write_shard(store, "s.tar", samples_of(range(4)))
    assert index_shard(store, "s.tar").sha256 == first.sha256


def _race(folder: Path, size: int) -> int:
    from small_sets import make_sample

    try:
        samples = (make_sample(number) for number in range(size))
        return write_shard(LocalStore(folder), "s.tar", samples).num_samples
    except AlreadyInStoreError:
        return 0


def test_of_racing_processes_one_wins_and_what_it_wrote_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        wrote = [done.result() for done in [pool.submit(_race, tmp_path, n) for n in (3, 4)]]
    assert sorted(wrote) in ([0, 3], [0, 4])
    assert index_shard(LocalStore(tmp_path), "s.tar").num_samples == max(wrote)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


def test_an_index_made_afterwards_equals_the_writers(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    written = write_shard(store, "s.tar", samples_of(range(3)))
    found = index_shard(store, "s.tar")
    assert found.samples.rows() == written.samples.rows()
    assert (found.sha256, found.num_bytes) == (written.sha256, written.num_bytes)


def test_a_failure_while_samples_are_made_publishes_nothing(tmp_path, sample):
    def failing():
        yield sample
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="the renderer died"):
        write_shard(LocalStore(tmp_path), "s.tar", failing())
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_samples_own_is_not_the_disk_s(tmp_path, sample):
    def failing():
        yield sample
        raise FileNotFoundError(2, "No such file", "mesh.obj")

    with pytest.raises(FileNotFoundError, match=r"mesh\.obj"):
        write_shard(LocalStore(tmp_path), "s.tar", failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 700, 20_000])
def test_a_disk_that_fills_up_is_told_with_the_remedy(tmp_path, limit):
    # The kernel refuses bytes past the largest file size as it does on a full disk.
    code = """
import resource, sys
from pathlib import Path
from small_sets import make_sample
from shards.errors import StoreError
from shards.store import LocalStore
from shards.writer import index_shard, write_shard

samples = [make_sample(number) for number in range(8)]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_shard(LocalStore(Path(sys.argv[1])), "s.tar", samples)
except StoreError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "set", str(limit)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.stdout.startswith(f"cannot write {tmp_path}/set/.part-")
    assert "nothing was published; free some space" in done.stdout
    assert list((tmp_path / "set").iterdir()) == []


def test_what_cannot_be_a_shard_is_refused(tmp_path, sample):
    store = LocalStore(tmp_path)
    with pytest.raises(SchemaError, match="no samples"):
        write_shard(store, "s.tar", [])
    with pytest.raises(SchemaError, match="comes twice"):
        write_shard(store, "s.tar", [sample, sample])
    for name in ("../s.tar", "s.zip", "a/s.tar", ".part-s.tar", ""):
        with pytest.raises(SchemaError, match="plain file name"):
            write_shard(store, name, [sample])
    assert list(tmp_path.iterdir()) == []


def test_no_truncated_shard_is_indexed(tmp_path, samples_of):
    """The stock library accepts many of these without a word."""
    store = LocalStore(tmp_path)
    write_shard(store, "s.tar", samples_of(range(2)))
    content = (tmp_path / "s.tar").read_bytes()
    for length in range(0, len(content), 512):
        (tmp_path / "t.tar").write_bytes(content[:length])
        with pytest.raises(CorruptSampleError):
            index_shard(store, "t.tar")


NOT_UTF8 = os.fsdecode(b"caf\xe9.obj")  # as Python names such a file


@pytest.mark.parametrize("field", ["label", "warnings"])
def test_texts_that_no_table_can_hold_are_refused_before_anything_is_published(
    tmp_path, sample, field
):
    text = (NOT_UTF8,) if field == "warnings" else NOT_UTF8
    named = replace(sample, meta=replace(sample.meta, **{field: text}))
    with pytest.raises(SchemaError, match=r"'caf\\udce9\.obj': is not UTF-8.*rename"):
        write_shard(LocalStore(tmp_path), "s.tar", [named])
    assert list(tmp_path.iterdir()) == []


def test_neither_a_sample_nor_a_reject_is_named_by_such_a_text(sample):
    named = replace(sample, meta=replace(sample.meta, source_id=NOT_UTF8))
    for make in (
        lambda: encode_sample(named),
        lambda: named.key,
        lambda: Reject("set/x", "no_such_file", f"{NOT_UTF8} is not there"),
    ):
        with pytest.raises(SchemaError, match="is not UTF-8"):
            make()


def test_a_sample_named_by_half_a_surrogate_pair_is_refused_when_a_shard_is_read(tmp_path, sample):
    """JSON can say what UTF-8 cannot."""
    members = encode_sample(sample)
    named = members["meta.json"].replace(b"set/shape-7", b"set/shape-\\ud800")
    store = LocalStore(tmp_path)
    with pytest.raises(CorruptSampleError, match="is not UTF-8"):
        write_tar(
            store,
            "s.tar",
            [(sample.key, members | {"meta.json": named})],
            lambda file: list(index_tar(file, "s.tar")),
        )
