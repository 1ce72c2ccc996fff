import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from small_sets import make_set, publish_set, shards_of

import shards.manifest
from shards.columns import empty_shard
from shards.errors import (
    AlreadyInStoreError,
    ManifestError,
    NotFoundInStoreError,
    NotWholeError,
)
from shards.manifest import (
    Reject,
    load_manifest,
    load_part,
    part_name,
    publish_manifest,
    publish_part,
    shard_name,
)
from shards.parts import Parts
from shards.schema import SchemaError, sample_key
from shards.store import LocalStore, RemoteStore
from shards.writer import index_shard, write_shard


def test_the_manifest_holds_every_sample_in_the_order_written(shard_set):
    ids = [f"set/shape-{number}" for number in range(12)]
    assert shard_set.num_samples == 12
    source_ids, keys, labels = shard_set.read_texts("source_id", "key", "label")
    assert list(source_ids) == ids
    assert list(keys) == [sample_key(name) for name in ids]
    assert list(labels) == ["chair", "table"] * 6
    assert shard_set.rejects == (Reject("set/broken", "no_faces", "it has no faces"),)
    assert [shard.num_samples for shard in shard_set.shards] == [4, 4, 4]
    assert [shard_set.shard_of(index).name for index in (0, 3, 4, 11)] == [
        shard_name(number) for number in (0, 0, 1, 2)
    ]


@pytest.mark.parametrize("told", ["../../outside", "", "F" * 64])
@pytest.mark.parametrize("column", ["sha256", "part_sha256"])
def test_hashes_that_are_none_are_refused(shard_set, tmp_path, column, told):
    """A cache names its files by them."""
    hostile = [replace(entry, **{column: told}) for entry in shard_set.shards]
    publish_manifest(tmp_path / "hostile", hostile)
    with pytest.raises(ManifestError, match="is no SHA-256"):
        load_manifest(tmp_path / "hostile")


def test_rows_are_those_the_writer_told(shard_set):
    infos = [index_shard(LocalStore(Path(shard_set.url)), each.name) for each in shard_set.shards]
    told = [row for info in infos for row in info.samples.rows()]
    assert [shard_set.row(index) for index in range(12)] == told
    assert [row for shard in shards_of(shard_set) for row in shard.samples.rows()] == told


@pytest.mark.parametrize("index", [-1, 12])
def test_padding_slots_and_samples_past_the_end_are_refused(shard_set, index):
    with pytest.raises(IndexError, match="0 to 11"):
        shard_set.row(index)


def test_a_manifest_survives_pickling(shard_set):
    copy = pickle.loads(pickle.dumps(shard_set))
    assert copy.digest == shard_set.digest
    assert copy.row(7) == shard_set.row(7)


def test_the_digest_tells_content_not_names_places_or_rejects(tmp_path, samples_of):
    def published(folder, numbers, names, rejects=()):
        store = LocalStore(tmp_path / folder)
        infos = [
            write_shard(store, name, samples_of(range(start, start + 2)))
            for start, name in zip(numbers, names, strict=True)
        ]
        infos[0] = replace(infos[0], rejects=tuple(rejects))
        return publish_set(store, infos).digest

    first = published("a", (0, 2), ("a.tar", "b.tar"))
    assert published("b", (0, 2), ("y.tar", "x.tar"), [Reject("x", "y", "z")]) == first
    assert published("c", (2, 0), ("a.tar", "b.tar")) != first
    assert published("d", (0, 4), ("a.tar", "b.tar")) != first
    assert published("e", (0,), ("a.tar",)) != first


def test_a_set_in_object_storage_is_published_and_loaded(tmp_path, samples_of):
    store = RemoteStore(f"file://{tmp_path}")
    info = write_shard(store, shard_name(0), samples_of(range(3)))
    published = publish_set(store, [info])
    assert load_manifest(store).digest == published.digest
    assert store.list_names("manifest") == [
        "manifest/rejects.parquet",
        "manifest/samples/shard-000000.parquet",
        "manifest/shards.parquet",
    ]


def test_publishing_again_succeeds_and_publishing_another_set_does_not(shard_set):
    store = LocalStore(Path(shard_set.url))
    assert publish_set(store, shards_of(shard_set)).digest == shard_set.digest
    with pytest.raises(AlreadyInStoreError):
        publish_set(store, shards_of(shard_set)[:2])
    with pytest.raises(AlreadyInStoreError):
        publish_part(store, replace(shards_of(shard_set)[1], rejects=()))
    assert load_manifest(shard_set.url).digest == shard_set.digest


@pytest.mark.parametrize("published_before", range(5))
def test_an_interrupted_publish_leaves_no_set(tmp_path, samples_of, monkeypatch, published_before):
    store = LocalStore(tmp_path)
    infos = [
        write_shard(store, shard_name(n), samples_of(range(2 * n, 2 * n + 2))) for n in range(2)
    ]
    put_once, calls = shards.manifest.put_once, []

    def dies(*arguments):
        if len(calls) == published_before:
            raise KeyboardInterrupt
        calls.append(arguments)
        return put_once(*arguments)

    monkeypatch.setattr(shards.manifest, "put_once", dies)
    with pytest.raises(KeyboardInterrupt):
        publish_set(store, infos)
    monkeypatch.undo()
    with pytest.raises(NotWholeError, match="not whole"):
        load_manifest(tmp_path)
    assert publish_set(store, infos).num_samples == 4


def test_a_shard_is_finished_once_its_part_is_told(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    rejects = (Reject("set/x", "timeout", "took 60 s"), Reject("set/y", "no_faces", "has none"))
    info = replace(write_shard(store, "a.tar", samples_of(range(3))), rejects=rejects)
    assert load_part(store, "a.tar") is None
    entry = publish_part(store, info)
    assert load_part(store, "a.tar") == entry
    assert (entry.num_samples, entry.rejects, entry.sha256) == (3, rejects, store.sha256("a.tar"))
    (tmp_path / part_name("b.tar")).write_bytes((tmp_path / part_name("a.tar")).read_bytes())
    with pytest.raises(ManifestError, match=r"tells of 'a\.tar'"):
        load_part(store, "b.tar")


class _Watched:
    """A store that notes what is read whole."""

    def __init__(self, store):
        self._store, self.read = store, []

    def get(self, name):
        self.read.append(name)
        return self._store.get(name)

    def __getattr__(self, name):
        return getattr(self._store, name)


def test_opening_a_set_reads_no_part_and_a_sample_that_of_its_shard_once(shard_set):
    store = _Watched(LocalStore(Path(shard_set.url)))
    manifest = load_manifest(store)
    tables = ["manifest.json", "manifest/shards.parquet", "manifest/rejects.parquet"]
    assert store.read == tables
    for index in (5, 4, 5, 7):
        assert manifest.row(index) == shard_set.row(index)
    assert store.read == [*tables, part_name(shard_name(1))]


def test_only_the_rows_used_last_stay_in_memory(shard_set):
    store = _Watched(LocalStore(Path(shard_set.url)))
    parts = Parts(store, shard_set.shards, max_samples=8)  # two shards of four
    for number in (0, 1, 0, 2, 0, 1, 2):
        assert parts[number].samples.rows() == shard_set.parts[number].samples.rows()
    assert store.read == [part_name(shard_name(number)) for number in (0, 1, 2, 1, 2)]
    one = Parts(store, shard_set.shards, max_samples=1)
    assert one[1].name == one[1].name == shard_name(1)


def test_threads_that_push_out_one_another_s_rows_get_the_right_ones(shard_set):
    parts = Parts(LocalStore(Path(shard_set.url)), shard_set.shards, max_samples=4)  # one shard

    def read(thread: int) -> None:
        for step in range(100):
            number = (thread * step) % len(shard_set.shards)
            assert parts[number].name == shard_name(number)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(read, range(6)))


def test_threads_that_want_the_same_rows_wait_for_one_reading(shard_set):
    started, go_on = threading.Event(), threading.Event()

    class Slow(_Watched):
        def get(self, name):
            started.set()
            assert go_on.wait(60)
            return super().get(name)

    store = Slow(LocalStore(Path(shard_set.url)))
    parts = Parts(store, shard_set.shards)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(parts.__getitem__, 2) for _ in range(4)]
        assert started.wait(60)
        go_on.set()
        assert {id(each.result()) for each in waiting} == {id(parts[2])}
    assert store.read == [part_name(shard_name(2))]


def test_a_child_that_is_forked_while_rows_are_read_reads_them_itself(shard_set):
    started, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(_Watched):
        def get(self, name):
            started.set()
            assert os.getpid() != parent or go_on.wait(60)
            return super().get(name)

    parts = Parts(Slow(LocalStore(Path(shard_set.url))), shard_set.shards)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(parts.__getitem__, 2)
        assert started.wait(60)
        child = get_context("fork").Process(target=lambda: sys.exit(len(parts[2].samples)))
        child.start()
        child.join(30)
        child.kill()
        go_on.set()
        assert child.exitcode == len(waiting.result().samples) == 4


def test_a_damaged_part_is_refused_whenever_it_is_used(tmp_path):
    manifest = make_set(tmp_path)
    path = tmp_path / part_name(shard_name(1))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"x" + content[-8:])
    assert manifest.row(3).source_id == "set/shape-3"
    for _ in range(2):
        with pytest.raises(ManifestError, match=r"shard-000001\.parquet: SHA-256"):
            manifest.row(4)
    with pytest.raises(ManifestError, match=r"shard-000001\.parquet: SHA-256"):
        manifest.read_texts("label")
    path.write_bytes(content)
    assert manifest.row(4).source_id == "set/shape-4"


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"num_samples": 3}, "has 2 rows, and 3 are told of"),
        ({"num_bytes": 1}, "says other things of shard-000000"),
        ({"sha256": "0" * 64}, "says other things of shard-000000"),
    ],
)
def test_a_part_that_tells_another_story_than_the_tables_is_refused(
    tmp_path, samples_of, told, match
):
    """Its hash is right: the writer of the tables took the numbers from elsewhere."""
    store = LocalStore(tmp_path)
    entry = publish_part(store, write_shard(store, shard_name(0), samples_of(range(2))))
    publish_manifest(store, [replace(entry, **told)])
    with pytest.raises(ManifestError, match=match):
        load_manifest(store).row(0)


def test_samples_that_lie_outside_their_shard_are_refused(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    info = write_shard(store, shard_name(0), samples_of(range(2)))
    info.samples.offset[-1] = info.num_bytes
    manifest = publish_set(store, [info])
    with pytest.raises(ManifestError, match="a member lies outside its shard"):
        manifest.row(0)


def test_a_missing_folder_is_told_apart_from_a_set_that_is_not_whole(tmp_path):
    with pytest.raises(NotFoundInStoreError, match="no such folder"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(NotWholeError, match="run the same rendering again"):
        load_manifest(tmp_path)


def test_repeated_names_and_empty_sets_are_refused(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    a = write_shard(store, "a.tar", samples_of(range(2)))
    entry = publish_part(store, a)
    lost = publish_part(store, empty_shard("b.tar", [Reject("set/x", "no_faces", "has none")]))
    with pytest.raises(ManifestError, match=r"shard 'a\.tar' comes more than once"):
        publish_manifest(store, [entry, entry])
    for entries in ([], [lost]):
        with pytest.raises(ManifestError, match="a set of no samples"):
            publish_manifest(store, entries)
    with pytest.raises(NotWholeError):
        load_manifest(store)


def _edit(shard_set, change):
    """Change manifest.json as its writer might have written it."""
    path = Path(shard_set.url) / "manifest.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [("digest", "0" * 64), ("num_samples", 13), ("num_bytes", 1), ("num_rejects", 0)],
)
def test_a_manifest_that_contradicts_its_tables_is_refused(shard_set, field, value):
    _edit(shard_set, lambda record: record.update({field: value}))
    with pytest.raises(ManifestError, match="says other things"):
        load_manifest(shard_set.url)


def test_another_schema_version_is_refused(shard_set):
    _edit(shard_set, lambda record: record.update(schema_version=1))
    with pytest.raises(ManifestError, match="schema version 1; this program reads 2"):
        load_manifest(shard_set.url)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"schema_version": 2}'])
def test_what_is_no_manifest_is_refused(shard_set, content):
    (Path(shard_set.url) / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match="is no manifest"):
        load_manifest(shard_set.url)


@pytest.mark.parametrize("digest", [1, None, [], {}])
@pytest.mark.parametrize("which", ["one", "all"])
def test_digests_that_are_no_text_are_refused(shard_set, digest, which):
    def change(record):
        if which == "all":
            record["sha256"] = digest
        else:
            record["sha256"]["manifest/rejects.parquet"] = digest

    _edit(shard_set, change)
    with pytest.raises(ManifestError):
        load_manifest(shard_set.url)


def test_a_list_of_tables_without_digests_is_refused(shard_set):
    _edit(shard_set, lambda record: record.update(sha256=list(record["sha256"])))
    with pytest.raises(ManifestError, match="is no manifest"):
        load_manifest(shard_set.url)


def test_reading_and_publishing_a_manifest_starts_no_thread(tmp_path, shard_set):
    """A thread of Arrow's that lives at the interpreter's end may abort the process."""
    code = """
import sys
from pathlib import Path
from shards.manifest import load_manifest, publish_manifest, publish_part
from shards.store import LocalStore

def num_threads():
    return [line for line in Path("/proc/self/status").open() if line.startswith("Threads:")]

before = num_threads()
manifest = load_manifest(sys.argv[1])
copy = LocalStore(Path(sys.argv[2]))
publish_manifest(copy, [publish_part(copy, manifest.parts[n]) for n in range(3)])
assert num_threads() == before, (before, num_threads())
"""
    subprocess.run([sys.executable, "-c", code, shard_set.url, tmp_path / "copy"], check=True)


def test_a_table_swapped_for_another_is_refused(shard_set):
    folder = Path(shard_set.url) / "manifest"
    content = (folder / "rejects.parquet").read_bytes()
    (folder / "shards.parquet").write_bytes(content)
    with pytest.raises(ManifestError, match="is damaged"):
        load_manifest(shard_set.url)
    digest = hashlib.sha256(content).hexdigest()
    _edit(shard_set, lambda record: record["sha256"].update({"manifest/shards.parquet": digest}))
    with pytest.raises(ManifestError, match="exactly"):
        load_manifest(shard_set.url)


def test_a_shard_name_that_leaves_the_folder_is_refused(tmp_path, samples_of):
    info = write_shard(LocalStore(tmp_path), "a.tar", samples_of(range(1)))
    with pytest.raises(SchemaError, match="plain file name"):
        publish_part(LocalStore(tmp_path), replace(info, name="../a.tar"))
    entry = publish_part(LocalStore(tmp_path), info)
    publish_manifest(tmp_path, [replace(entry, name="../a.tar")])
    with pytest.raises(SchemaError, match="plain file name"):
        load_manifest(tmp_path)
