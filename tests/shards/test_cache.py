import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import shards.member_reader
from shards.cache import CacheConfig, DiskCache
from shards.codec import encode_sample
from shards.columns import MemberSpan
from shards.errors import CorruptSampleError
from shards.manifest import load_manifest, shard_name
from shards.reader import Request, ShardReader
from shards.store import RemoteStore

SHARD = "a" * 64


def _span(content: bytes, offset: int, name: str = "m") -> MemberSpan:
    return MemberSpan(name, offset, len(content), zlib.crc32(content))


@pytest.fixture
def cache(tmp_path):
    return DiskCache(CacheConfig(str(tmp_path / "cache"), 0.001))


@pytest.fixture
def remote(shard_set, monkeypatch):
    """The set as in a bucket: obstore's store of files is the remote face without a server."""
    url = shard_set.url
    monkeypatch.setattr(
        shards.member_reader, "open_store", lambda url: RemoteStore(f"file://{url}")
    )
    return url


def test_what_was_kept_is_found_and_holes_are_not(cache):
    a, b = b"first" * 100, b"second" * 50
    assert cache.find(SHARD, [_span(a, 512)]) == {}
    cache.keep(SHARD, [(512, a), (50_000, b)])
    spans = [_span(a, 512, "a"), _span(b, 50_000, "b"), _span(b"x" * 9, 20_000, "hole")]
    assert cache.find(SHARD, spans) == {"a": a, "b": b}
    assert cache.find("b" * 64, spans) == {}
    assert (cache.num_hits, cache.num_misses) == (2, 5)


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "", "A" * 64, "a" * 63 + "/"])
def test_a_name_that_is_no_hash_reaches_no_file(cache, tmp_path, name):
    """The names come from the manifest of a bucket, whoever wrote it."""
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.keep(name, [(0, b"content")])
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.find(name, [_span(b"content", 0)])
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.find_whole(name)
    assert not list(tmp_path.rglob("*outside*"))


def test_pieces_that_are_not_what_they_should_be_are_not_found(cache, tmp_path):
    content = os.urandom(1000)
    cache.keep(SHARD, [(0, content)])
    path = tmp_path / "cache" / SHARD
    for damage in (content[:500], content[:999] + b"\0", b"", b"\0" * 1000):
        path.write_bytes(damage)
        assert cache.find(SHARD, [_span(content, 0)]) == {}
    cache.keep(SHARD, [(0, content)])
    assert cache.find(SHARD, [_span(content, 0)]) == {"m": content}


def test_a_second_reading_asks_the_bucket_for_nothing(remote, samples_of, tmp_path):
    config = CacheConfig(str(tmp_path / "cache"))
    requests = [Request(index, (0, 2)) for index in range(12)]
    first = list(ShardReader(load_manifest(remote), cache=config).stream(requests))
    for number in range(3):
        (Path(remote) / shard_name(number)).unlink()
    again = list(ShardReader(load_manifest(remote), cache=config).stream(requests))
    for mine, other, written in zip(first, again, samples_of(range(12)), strict=True):
        assert mine.pictures == other.pictures == {v: written.pictures[v] for v in (0, 2)}
        assert np.array_equal(other.points, written.points)


def test_only_what_is_missing_is_fetched(remote, samples_of, tmp_path):
    config = CacheConfig(str(tmp_path / "cache"))
    ShardReader(load_manifest(remote), cache=config).read(Request(5, (0,)))
    reader = ShardReader(load_manifest(remote), cache=config)
    fetched: list[str] = []
    get_ranges = RemoteStore.get_ranges

    def watched(store, name, ranges):
        fetched.extend(ranges)
        return get_ranges(store, name, ranges)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RemoteStore, "get_ranges", watched)
        sample = reader.read(Request(5, (0, 1)))
    view = next(each for each in reader.manifest.row(5).members if each.name == "view01.jpg")
    assert fetched == [(view.offset, view.length)]
    assert sample.pictures[1] == samples_of(range(6))[5].pictures[1]


def test_parts_of_the_manifest_are_kept_too(shard_set, tmp_path):
    store = RemoteStore(f"file://{shard_set.url}")
    disk = DiskCache(CacheConfig(str(tmp_path / "cache")))
    row = load_manifest(store, disk).row(5)
    for path in Path(shard_set.url).glob("manifest/samples/*"):
        path.unlink()
    assert load_manifest(store, disk).row(5) == row
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Exception, match="no such object"):
        load_manifest(store, disk).row(5)


def test_damage_in_the_bucket_is_never_kept(remote, tmp_path):
    manifest = load_manifest(remote)
    span = manifest.row(5).members[4]
    path = Path(remote) / shard_name(1)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[span.offset] ^= 1
    path.write_bytes(damaged)
    reader = ShardReader(manifest, cache=CacheConfig(str(tmp_path / "cache")))
    with pytest.raises(CorruptSampleError):
        reader.read(Request(5))
    path.write_bytes(whole)
    assert reader.read(Request(5)) is not None


def test_a_cache_stays_within_its_limit_and_drops_what_was_written_longest_ago(tmp_path):
    cache = DiskCache(CacheConfig(str(tmp_path / "cache"), 0.001))
    contents = [os.urandom(20_000) for _ in range(200)]
    for number, content in enumerate(contents):
        cache.keep(f"{number:064x}", [(0, content)])
        os.utime(tmp_path / "cache" / f"{number:064x}", (number, number))
        used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").iterdir())
        assert used <= 1_000_000 * (1 + 1 / 32) + 2 * 20_480
    held = [cache.find(f"{n:064x}", [_span(c, 0)]) != {} for n, c in enumerate(contents)]
    assert held == sorted(held)  # the newest, and only they
    assert sum(held) > 40


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_told_once_and_read_past(
    code, remote, tmp_path, monkeypatch, caplog
):
    def refused(*arguments):
        raise OSError(code, os.strerror(code))

    reader = ShardReader(load_manifest(remote), cache=CacheConfig(str(tmp_path / "cache")))
    monkeypatch.setattr(os, "pwrite", refused)
    assert all(sample is not None for sample in reader.stream(map(Request, range(12))))
    assert len([record for record in caplog.records if os.strerror(code) in record.message]) == 1


def test_a_full_disk_means_reading_on(remote, tmp_path):
    """A real limit: no file of this process may be longer than 20,000 bytes."""
    code = """
import resource, sys
import shards.member_reader
from shards.cache import CacheConfig
from shards.manifest import load_manifest
from shards.reader import Request, ShardReader
from shards.store import RemoteStore

shards.member_reader.open_store = lambda url: RemoteStore(f"file://{url}")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for _ in range(2):
    reader = ShardReader(load_manifest(sys.argv[1]), cache=CacheConfig(sys.argv[2]))
    print(sum(sample is not None for sample in reader.stream(map(Request, range(12)))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, remote, tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["12", "12"]
    assert all(path.stat().st_size <= 20_000 for path in (tmp_path / "cache").iterdir())


def _write_for_ever(config):
    cache, number = DiskCache(config), 0
    while True:
        rng = np.random.default_rng(number % 40)
        cache.keep(SHARD, [(number % 40 * 10_000, rng.bytes(9_000))])
        number += 1


def test_writers_that_are_killed_leave_nothing_that_is_taken_for_whole(tmp_path):
    config = CacheConfig(str(tmp_path / "cache"))
    contents = [np.random.default_rng(number).bytes(9_000) for number in range(40)]
    spans = [_span(content, 10_000 * n, f"{n}") for n, content in enumerate(contents)]
    fork = multiprocessing.get_context("fork")
    found = 0
    for _ in range(5):
        writers = [fork.Process(target=_write_for_ever, args=(config,)) for _ in range(3)]
        for writer in writers:
            writer.start()
        reader = DiskCache(config)
        for _ in range(40):
            for name, content in reader.find(SHARD, spans).items():
                assert content == contents[int(name)]
                found += 1
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    assert found > 0


def test_a_reader_with_a_cache_may_be_pickled(remote, samples_of, tmp_path):
    reader = ShardReader(load_manifest(remote), cache=CacheConfig(str(tmp_path / "cache")))
    copy = pickle.loads(pickle.dumps(reader))
    assert encode_sample(copy.read(Request(3, (0, 1, 2)))) == encode_sample(samples_of(range(4))[3])


def test_folders_are_not_cached(shard_set, tmp_path):
    ShardReader(shard_set.url, cache=CacheConfig(str(tmp_path / "cache"))).read(Request(0))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("values", [("", 1.0), ("cache", 0.0), ("cache", -1.0)])
def test_a_cache_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="leave the cache out"):
        CacheConfig(*values)


def test_files_that_the_cache_did_not_write_are_never_removed(tmp_path):
    """Whoever names a folder that holds other things loses none of them."""
    folder = tmp_path / "cache"
    (folder / "photos").mkdir(parents=True)
    for name in ("thesis.tex", "A" * 64, "b" * 63, "photos/" + "c" * 64):
        (folder / name).write_bytes(b"mine" * 500_000)
        os.utime(folder / name, (0, 0))
    (folder / ("d" * 64)).mkdir()
    cache = DiskCache(CacheConfig(str(folder), 0.001))
    for number in range(80):
        cache.keep(f"{number:064x}", [(0, os.urandom(20_000))])
    assert {path.name for path in folder.rglob("*") if path.stat().st_mtime == 0} == {
        *("thesis.tex", "A" * 64, "b" * 63, "c" * 64)
    }
    assert (folder / ("d" * 64)).is_dir()
    kept = [path for path in folder.iterdir() if path.name.startswith("0")]
    assert 20 < len(kept) < 60  # and those of others count for nothing
