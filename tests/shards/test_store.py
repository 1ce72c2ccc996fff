import errno
import os
import pickle
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from obstore.exceptions import GenericError

from shards import remote
from shards.errors import (
    AlreadyInStoreError,
    NotFoundInStoreError,
    StoreError,
    TransientStoreError,
    UrlError,
)
from shards.local import explained_disk
from shards.reader import Request, ShardReader
from shards.store import (
    LocalStore,
    RemoteStore,
    get_range,
    open_store,
    put_once,
    sha256,
)


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    """The remote face runs over obstore's own store of files, which needs no server."""
    if request.param == "local":
        return LocalStore(tmp_path / "set")
    (tmp_path / "bucket").mkdir()
    return RemoteStore(f"file://{tmp_path}/bucket")


def test_what_is_put_is_read(store, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.put_new("a/bytes", b"0123456789")
    store.put_new("a/file", source)
    with store.scratch() as scratch:
        scratch.write_bytes(b"from scratch")
        store.put_new("b", scratch)
    assert not scratch.exists()
    assert store.get("a/bytes") == b"0123456789"
    assert store.get("a/file") == b"from a file"
    assert store.get("b") == b"from scratch"
    assert get_range(store, "a/bytes", 2, 3) == b"234"
    assert store.get_ranges("a/bytes", [(0, 1), (8, 2)]) == [b"0", b"89"]
    assert get_range(store, "a/bytes", 8, 100) == b"89"
    assert store.get_ranges("a/bytes", [(3, 2), (20, 5)]) == [b"34", b""]
    assert store.size("a/bytes") == 10
    assert store.sha256("a/bytes") == sha256(b"0123456789")
    assert store.list_names() == ["a/bytes", "a/file", "b"]
    assert store.list_names("a") == ["a/bytes", "a/file"]


def test_nothing_is_overwritten(store):
    store.put_new("a", b"first")
    with pytest.raises(AlreadyInStoreError, match="nothing is ever overwritten"):
        store.put_new("a", b"second")
    assert store.get("a") == b"first"
    assert store.list_names() == ["a"]


def test_repeating_the_same_work_succeeds_and_other_work_fails(store):
    assert put_once(store, "a", b"first") == sha256(b"first")
    assert put_once(store, "a", b"first") == sha256(b"first")
    with pytest.raises(AlreadyInStoreError, match=sha256(b"first")[:12]):
        put_once(store, "a", b"second")
    assert store.get("a") == b"first"


def test_of_racing_writers_exactly_one_wins(store):
    num_writers = 8
    barrier = Barrier(num_writers)

    def write(number: int) -> bool:
        barrier.wait()
        try:
            store.put_new("a", bytes([number]) * 100_000)
        except AlreadyInStoreError:
            return False
        return True

    with ThreadPoolExecutor(num_writers) as pool:
        won = list(pool.map(write, range(num_writers)))
    assert won.count(True) == 1
    assert store.get("a") == bytes([won.index(True)]) * 100_000
    assert store.list_names() == ["a"]


def test_a_missing_object_is_named(store):
    store.put_new("a", b"")
    for read in (store.get, store.size, lambda name: get_range(store, name, 0, 1)):
        with pytest.raises(NotFoundInStoreError, match="nowhere"):
            read("nowhere")


def test_a_missing_folder_is_named(tmp_path):
    store = LocalStore(tmp_path / "nowhere")
    for read in (lambda: store.get("a"), store.list_names):
        with pytest.raises(NotFoundInStoreError, match="nowhere: no such folder; check the path"):
            read()


def _in_child(code: str, *arguments: str) -> str:
    """Run code in another process, which may die of it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_write_that_hits_a_limit_leaves_nothing(tmp_path):
    # The kernel refuses bytes past the largest file size as it does on a full disk.
    code = """
        import resource, sys
        from pathlib import Path
        from shards.store import LocalStore
        from shards.errors import StoreError
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            LocalStore(Path(sys.argv[1])).put_new("a", bytes(20_000))
        except StoreError as error:
            print(error)
    """
    said = _in_child(code, str(tmp_path / "set"))
    assert "nothing was published; free some space" in said
    assert list((tmp_path / "set").iterdir()) == []


def test_a_full_disk_is_told_as_such():
    full = Path("/dev/full")  # the kernel's own full disk
    with (
        pytest.raises(StoreError, match="free some space") as caught,
        explained_disk("write", full),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_writer_that_is_killed_leaves_nothing_that_is_listed(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        import shards.local as store
        store._force_to_disk = lambda path: os._exit(9)  # the last step before the name appears
        store.LocalStore(Path(sys.argv[1])).put_new("a", bytes(1000))
    """
    _in_child(code, str(tmp_path / "set"))
    store = LocalStore(tmp_path / "set")
    assert len(list(store.root.iterdir())) == 1
    assert store.list_names() == []
    store.put_new("a", b"again")
    assert store.list_names() == ["a"]


def test_what_a_killed_writer_left_is_swept_by_a_later_one_after_a_day(tmp_path):
    now = time.time()
    for name, age_h in ((".part-dead", 25), (".part-busy", 23), ("kept.tar", 99)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (now - 3600 * age_h,) * 2)
    (tmp_path / ".part-folder").mkdir()
    os.utime(tmp_path / ".part-folder", (0, 0))
    with LocalStore(tmp_path).scratch() as scratch:
        there = {path.name for path in tmp_path.iterdir()}
    assert there == {".part-busy", ".part-folder", "kept.tar", scratch.name}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told_as_such(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StoreError, match="change the folder's permissions"):
        LocalStore(tmp_path).put_new("a", b"")


def test_a_file_where_the_folder_should_be_is_told_as_such(tmp_path):
    (tmp_path / "set").write_bytes(b"")
    with pytest.raises(StoreError, match="check the path"):
        LocalStore(tmp_path / "set").put_new("a", b"")


def test_urls_choose_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert open_store(tmp_path) == LocalStore(tmp_path)
    assert open_store(f"file://{tmp_path}") == LocalStore(tmp_path)
    assert open_store("s3://bucket/prefix/").url == "s3://bucket/prefix"
    assert pickle.loads(pickle.dumps(open_store("s3://bucket/prefix"))).url == "s3://bucket/prefix"
    with pytest.raises(UrlError, match="unknown scheme 'ftp'"):
        open_store("ftp://host/folder")


@pytest.mark.parametrize("url", ["", " ", "file://", "s3://"])
def test_a_url_that_names_no_place_is_not_the_current_folder(url):
    with pytest.raises(UrlError, match="names no folder or bucket"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3:///",
        "s3:///prefix",
        "s3://bucket//prefix",
        "az://container",
        "s3://bucket?x=1",
        "gs://b#x",
    ],
)
def test_a_url_that_can_never_work_is_not_taken_for_a_failing_network(url, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UrlError, match=r"environment"):
        open_store(url)


def test_a_forked_process_is_told_that_it_cannot_use_object_storage(tmp_path):
    """obstore's threads stay behind; without a word, the first request would wait for ever."""
    code = """
import os, signal, sys
from shards.errors import StoreError
from shards.store import RemoteStore

before = RemoteStore(sys.argv[1])
early = os.fork()
if early == 0:
    signal.alarm(30)
    before.put_new("by an early child", b"x")
    os._exit(0)
assert os.waitpid(early, 0)[1] == 0
before.put_new("by the parent", b"x")
late = os.fork()
if late == 0:
    signal.alarm(30)
    requests = [
        lambda: before.get("by the parent"),
        lambda: before.put_new("by a late child", b"x"),
        lambda: RemoteStore(sys.argv[1]).list_names(),
    ]
    for request in requests:
        try:
            request()
        except StoreError as error:
            assert "multiprocessing_context='spawn'" in str(error)
        else:
            os._exit(1)
    os._exit(0)
assert os.waitpid(late, 0)[1] == 0
print(before.list_names())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"file://{tmp_path}"], capture_output=True, text=True
    )
    assert done.stdout == "['by an early child', 'by the parent']\n", done.stderr


def test_where_the_system_takes_no_advice_a_folder_is_read_without(shard_set, monkeypatch):
    """macOS has no posix_fadvise."""
    told = [sample.source_id for sample in ShardReader(shard_set).stream(map(Request, range(12)))]
    monkeypatch.delattr(os, "posix_fadvise")
    again = [sample.source_id for sample in ShardReader(shard_set).stream(map(Request, range(12)))]
    assert again == told == [shard_set.row(number).source_id for number in range(12)]


def test_of_a_refused_listing_the_status_counts_and_not_what_is_quoted_after_it():
    """A proxy's page may quote another status; the refusal itself is a passing one."""
    told = (
        "Generic S3 error: Error performing list request: Error performing GET https://b/?list-type"
        "=2 in 3s, after 6 retries - Server returned non-2xx status code: {}: upstream said "
        "status code: 404"
    )
    for status, kind in (("503", TransientStoreError), ("404", NotFoundInStoreError)):
        with pytest.raises(kind), remote._explained("s3://b", ""):
            raise GenericError(told.format(status))
