"""Object storage over a real S3-compatible server, and over a proxy that fails."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fault_proxy import Faults, fault_proxy

from shards.errors import AlreadyInStoreError, StoreError
from shards.store import open_store, put_once, sha256
from tests.s3_server import BUCKET, S3Server, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def at(server: S3Server, monkeypatch: pytest.MonkeyPatch, port: int | None = None) -> None:
    for name, value in server.environment(port).items():
        monkeypatch.setenv(name, value)


def test_a_failing_server_loses_and_repeats_nothing(server, monkeypatch):
    faults = Faults(refused=0.1, reset=0.05, answer_lost=0.05, answer_cut=0.05, seed=1)
    contents = {f"object-{n}": os.urandom(1000 * n + 1) for n in range(60)}
    with fault_proxy(server.port, faults) as port:
        at(server, monkeypatch, port)
        store = open_store(f"s3://{BUCKET}/faulty")
        for name, content in contents.items():
            assert put_once(store, name, content) == sha256(content)
        assert store.list_names() == sorted(contents)
        for name, content in contents.items():
            assert store.get(name) == content
            assert store.sha256(name) == sha256(content)
            assert store.get_ranges(name, [(0, 1), (len(content) - 1, 1)])[1] == content[-1:]
    kinds = ("refused", "reset", "answer_lost", "answer_cut")
    assert all(faults.counts[kind] > 5 for kind in kinds), faults


def test_a_put_whose_answer_was_lost_counts_as_done(server, monkeypatch):
    with fault_proxy(server.port, Faults(answer_lost=1.0)) as port:
        at(server, monkeypatch, port)
        with pytest.raises(StoreError, match="then run it again"):
            put_once(open_store(f"s3://{BUCKET}/lost"), "a", b"content")
    at(server, monkeypatch)
    store = open_store(f"s3://{BUCKET}/lost")
    assert store.get("a") == b"content"
    put_once(store, "a", b"content")
    with pytest.raises(AlreadyInStoreError):
        put_once(store, "a", b"other")


def test_a_large_shard_is_held_in_memory_no_more_than_once(server, tmp_path):
    """256 MB are published twice and hashed; the mapped file itself counts in a process's peak."""
    code = """
import sys
from pathlib import Path
from shards.store import open_store, put_once
from tests.processes import peak_memory_mb

store = open_store(sys.argv[1])
before = peak_memory_mb()
put_once(store, "large", Path(sys.argv[2]))
put_once(store, "large", Path(sys.argv[2]))
print(round(peak_memory_mb() - before))
"""
    large = tmp_path / "large"
    with large.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    done = subprocess.run(
        [sys.executable, "-c", code, f"s3://{BUCKET}/memory", large],
        env=os.environ | server.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 1.3 * 256, "MB beyond what the imports take"


def test_no_bucket_is_told_in_one_line(server, monkeypatch):
    at(server, monkeypatch)
    with pytest.raises(StoreError, match="s3://nobody/x") as caught:
        open_store("s3://nobody/x").get("a")
    assert len(str(caught.value).splitlines()) == 1
