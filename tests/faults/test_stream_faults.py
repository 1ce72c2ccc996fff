"""Reading from a real S3-compatible server while ranks come and go, requests fail, bytes rot.

Each test prints its figures, which the README quotes.
"""

import io
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import obstore
import pytest
from fault_proxy import Faults, fault_proxy
from stream_worker import GHOST_BATCH, GLOBAL_BATCH, plan_of

from shards.codec import decode_picture, encode_sample
from shards.columns import SampleColumns, ShardInfo, shard_name
from shards.errors import AlreadyInStoreError, CorruptSampleError, ManifestError, ShardError
from shards.manifest import Manifest, load_manifest, publish_manifest, publish_part
from shards.reader import ALL_ARRAYS, Request, ShardReader
from shards.store import open_store, sha256
from shards.verify import EXIT_DAMAGED, verify
from shards.writer import index_tar, write_shard
from tests.processes import peak_memory_mb
from tests.s3_server import BUCKET, S3Server, s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "shards"))
from small_sets import make_sample, make_set

pytestmark = pytest.mark.slow

NUM_SAMPLES = 53  # neither ranks x batch nor shards divide it
WORKER = Path(__file__).parent / "stream_worker.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def at_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def remote(server: S3Server) -> str:
    """URL of a set in the bucket: 53 samples in 5 shards of unequal size."""
    url = f"s3://{BUCKET}/set"
    with pytest.MonkeyPatch.context() as patched:
        for name, value in server.environment().items():
            patched.setenv(name, value)
        store = open_store(url)
        edges = (0, 3, 20, 21, 40, NUM_SAMPLES)
        entries = [
            publish_part(
                store,
                write_shard(store, shard_name(n), map(make_sample, range(first, last))),
            )
            for n, (first, last) in enumerate(pairwise(edges))
        ]
        publish_manifest(store, entries)
    return url


def _environment(port: int | None, server: S3Server) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    return os.environ | server.environment(port) | {"PYTHONPATH": path}


def _start(url: str, out: Path, server: S3Server, *numbers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(WORKER), url, *map(str, numbers), str(out)]
    return subprocess.Popen(command, env=_environment(None, server))


def _lines(out: Path) -> list[tuple[int, int, int, list[int]]]:
    """Whole lines: (position, epoch, rank, samples)."""
    content = out.read_text() if out.exists() else ""
    lines = [line.split() for line in content.split("\n")[:-1]]
    return [(int(p), int(e), int(r), [int(i) for i in rest]) for p, e, r, *rest in lines]


def _expected(url: str, num_batches: int) -> dict[int, list[int]]:
    """The global order, batch after batch, by position."""
    plan = plan_of(ShardReader(url))
    order, position = {}, 0
    for _ in range(num_batches):
        batch = plan.batch_at(position)
        order[position] = batch.sample_index[batch.valid].tolist()
        position += batch.num_samples
    return order


def test_world_sizes_4_2_3_1_4_in_mid_epoch_read_one_order(remote, server, tmp_path):
    """Two epochs of 53 samples by processes of their own; padding leaves ranks of equal batches."""
    seen, found = 0, {}
    expected = _expected(remote, 10)
    for step, num_ranks in enumerate((4, 2, 3, 1, 4)):
        outs = [tmp_path / f"{step}-{rank}" for rank in range(num_ranks)]
        workers = [
            _start(remote, out, server, seen, rank, num_ranks, 2) for rank, out in enumerate(outs)
        ]
        assert [worker.wait() for worker in workers] == [0] * num_ranks
        told = [_lines(out) for out in outs]
        assert {len(lines) for lines in told} == {2}  # equal batches on every rank
        for of_batch in zip(*told, strict=True):
            (position,) = {line[0] for line in of_batch}
            found[position] = [sample for line in of_batch for sample in line[3]]
            seen = position + len(found[position])
    assert found == expected
    counts = Counter(sample for batch in found.values() for sample in batch)
    assert set(counts.values()) == {2}
    assert len(counts) == NUM_SAMPLES
    print(f"world sizes 4-2-3-1-4: {len(counts)} samples twice in 2 epochs, one order")


def test_readers_that_are_killed_lose_and_repeat_nothing(remote, server, tmp_path):
    """SIGKILL at random moments; whoever follows asks for what comes after the last whole batch."""
    out, num_batches, kills = tmp_path / "log", 120, 0
    dice = random.Random(0)
    expected = _expected(remote, num_batches)
    while len(lines := _lines(out)) < num_batches:
        out.write_text("".join(f"{p} {e} {r} {' '.join(map(str, s))}\n" for p, e, r, s in lines))
        seen = lines[-1][0] + len(lines[-1][3]) if lines else 0
        worker = _start(remote, out, server, seen, 0, 1, num_batches - len(lines))
        while worker.poll() is None and len(_lines(out)) == len(lines):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.2))
        if worker.poll() is None:
            worker.kill()
            kills += 1
        assert worker.wait() in (0, -signal.SIGKILL)
    assert {line[0]: line[3] for line in _lines(out)} == expected
    print(f"kill -9: {kills} readers killed over {num_batches} batches, 0 lost, 0 repeated")


def test_failing_requests_lose_nothing_and_cost_little(remote, server, monkeypatch):
    """10 % 503s, 5 % resets, 2 % bodies cut; throughput is of many requests at once.

    Each takes at least 30 ms, so that it is bound by the network, as far away, not by the proxy.
    """
    requests = [Request(i, (i % 3,)) for i in range(NUM_SAMPLES)] * 12

    def read(port: int) -> tuple[float, list[str]]:
        for name, value in server.environment(port).items():
            monkeypatch.setenv(name, value)
        reader = ShardReader(remote)
        list(reader.stream(requests[:NUM_SAMPLES], 32))  # opens connections, reads the parts
        start_s = time.perf_counter()
        keys = [sample.key for sample in reader.stream(requests, 32)]
        return len(keys) / (time.perf_counter() - start_s), keys

    clean = Faults(delay_s=0.03)
    failing = replace(clean, refused=0.1, reset=0.05, answer_cut=0.02, seed=2, counts=Counter())
    with fault_proxy(server.port, clean) as port:
        clean_per_s, expected = read(port)
    with fault_proxy(server.port, failing) as port:
        failing_per_s, found = read(port)
    assert found == expected
    assert all(failing.counts[kind] > 5 for kind in ("refused", "reset", "answer_cut"))
    print(
        f"17 % of requests fail ({dict(failing.counts)}): 0 of {len(found)} lost, "
        f"{failing_per_s / clean_per_s:.0%} of clean throughput"
    )


def _members_read(manifest: Manifest) -> list[tuple[int, int, int]]:
    """(sample, offset, length) of every member that a reader of everything reads."""
    return [
        (index, span.offset, span.length)
        for index in range(manifest.num_samples)
        for span in manifest.row(index).members
    ]


def test_1000_flipped_bits_are_noticed_before_a_sample_is_handed_out(tmp_path):
    manifest = make_set(tmp_path / "set", num_shards=2, per_shard=3)
    reader = ShardReader(manifest, "skip_and_count", ALL_ARRAYS)
    dice, noticed = random.Random(1), 0
    members = _members_read(manifest)
    weights = [length for _, _, length in members]
    for index, offset, length in dice.choices(members, weights, k=1000):
        path = Path(manifest.url) / manifest.shard_of(index).name
        place, bit = offset + dice.randrange(length), 1 << dice.randrange(8)
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ bit]))
            file.flush()
            noticed += reader.read(Request(index, (0, 1, 2))) is None
            file.seek(place)
            file.write(bytes([byte]))
    assert noticed == 1000
    assert all(reader.read(Request(i, (0, 1, 2))) is not None for i in range(6))
    print("1,000 flipped bits in members: 1,000 noticed")


def test_flips_outside_the_members_are_found_by_verify(tmp_path):
    manifest = make_set(tmp_path / "set", num_shards=1, per_shard=2)
    path = tmp_path / "set" / shard_name(0)
    content = path.read_bytes()
    inside = np.zeros(len(content), bool)
    for _, offset, length in _members_read(manifest):
        inside[offset : offset + length] = True
    places = np.random.default_rng(2).choice(np.flatnonzero(~inside), 300, replace=False)
    found = 0
    for place in places.tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found += verify(tmp_path / "set").exit_code == EXIT_DAMAGED
    assert found == 300
    print("300 flipped bits in headers and padding: 300 found by verify")


def test_every_truncation_by_512_bytes_is_noticed_where_webdataset_misses_some(tmp_path):
    manifest = make_set(tmp_path / "set", num_shards=1, per_shard=8)
    path = tmp_path / "set" / shard_name(0)
    content, ends = path.read_bytes(), {}
    for index, offset, length in _members_read(manifest):
        ends[index] = max(ends.get(index, 0), offset + length)
    lengths = range(0, len(content), 512)
    noticed = found = 0
    for length in lengths:
        path.write_bytes(content[:length])
        reader = ShardReader(manifest, "skip_and_count")
        whole = [i for i in range(8) if reader.read(Request(i, (0, 1, 2))) is not None]
        assert whole == [i for i in range(8) if ends[i] <= length]
        noticed += len(whole) < 8 or length >= max(ends.values())
        found += verify(tmp_path / "set").exit_code == EXIT_DAMAGED
    assert noticed == found == len(lengths)
    path.write_bytes(content)
    # In a process of its own: the library leaves files open.
    stock = subprocess.run(
        [sys.executable, "-c", _STOCK, path], capture_output=True, text=True, check=True
    )
    print(
        f"{len(lengths)} truncations: {noticed} noticed by the reader, {found} by verify; the "
        f"webdataset library reads {stock.stdout.strip()} of them to the end"
    )


_STOCK = """
import sys
from pathlib import Path
import webdataset as wds

path, accepted = Path(sys.argv[1]), 0
content = path.read_bytes()
for length in range(0, len(content), 512):
    path.write_bytes(content[:length])
    try:
        for _ in wds.WebDataset(str(path), shardshuffle=False, empty_check=False):
            pass
    except Exception:
        continue
    accepted += 1
print(accepted)
"""


class _Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, trace: Path):
        self._trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self._trace}",)


def _tar(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in members:
            if isinstance(header, str):
                header = tarfile.TarInfo(header)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _jpeg_claiming(side_px: int, real: bytes) -> bytes:
    """A real JPEG whose frame header tells another size."""
    at = real.index(b"\xff\xc0") + 5
    return real[:at] + struct.pack(">HH", side_px, side_px) + real[at + 4 :]


def _hostile_shards(trace: Path) -> dict[str, bytes]:
    sample = make_sample(1)
    whole = {f"{sample.key}.{name}": content for name, content in encode_sample(sample).items()}
    pickled = pickle.dumps(_Bomb(trace))
    objects = io.BytesIO()
    np.save(objects, np.array([_Bomb(trace)], dtype=object), allow_pickle=True)

    def with_member(name: str, content: bytes) -> bytes:
        return _tar(list((whole | {f"{sample.key}.{name}": content}).items()))

    huge = "{'descr': '<f2', 'fortran_order': False, 'shape': (1099511627776, 3), }"
    call = f"__import__('os').system('touch {trace}')"
    return {
        "pickle member": with_member("features.pkl", pickled),
        "pickle as points": with_member("points.npy", pickled),
        "array of objects": with_member("points.npy", objects.getvalue()),
        "code in an npy header": with_member("points.npy", _npy(call)),
        "array of 6 TB": with_member("points.npy", _npy(huge, b"\0" * 600)),
        "picture of 65,000 px": with_member(
            "view00.jpg", _jpeg_claiming(65_000, whole[f"{sample.key}.view00.jpg"])
        ),
        "picture that is a zip bomb": with_member("view00.jpg", zlib.compress(bytes(1 << 24))),
        "nested json": with_member("meta.json", b"[" * 100_000),
        "name with a pipe": _tar([(f"pipe:touch {trace}|.points.npy", b"x")]),
        "name that climbs": _tar([("../../escaped.points.npy", b"x")]),
        "absolute name": _tar([(f"{trace}", b"x")]),
        "symbolic link": _tar([(_link("a.points.npy", "/etc/passwd", tarfile.SYMTYPE), b"")]),
        "hard link": _tar([(_link("a.points.npy", "/etc/passwd", tarfile.LNKTYPE), b"")]),
        "device": _tar([(_link("a.points.npy", "", tarfile.CHRTYPE), b"")]),
        "member said to be of 8 GB": _said_to_be_large(),
    }


def _said_to_be_large() -> bytes:
    header = tarfile.TarInfo("a.points.npy")
    header.size = (8 << 30) - 1
    return header.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240)


def test_hostile_shards_run_nothing_write_nothing_and_stay_small(tmp_path):
    """As a whole set of its own, manifest and all, each shard is refused; so is it by the index."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as reader:
        accepted, peak_mb = reader.submit(_read_hostile_shards, tmp_path).result()
    assert accepted == []
    assert [path.name for path in tmp_path.iterdir()] == ["sets"], "traces, or what climbed out"
    assert peak_mb < 1000
    print(f"hostile shards: all refused, nothing run or written; peak {peak_mb:.0f} MB")


def _read_hostile_shards(folder: Path) -> tuple[list[str], float]:
    """Tell which were taken for good, and the most memory that reading them took."""
    accepted = []
    for name, content in _hostile_shards(folder / "trace").items():
        with suppress(ShardError):
            list(index_tar(io.BytesIO(content), name))
            accepted.append(f"{name}, by the index")
        if not _is_found_damaged(folder / "sets" / name, content):
            accepted.append(f"{name}, as a set")
    return accepted, peak_memory_mb()


def _is_found_damaged(folder: Path, content: bytes) -> bool:
    """Make a set of the content, whose manifest was forged to match it byte for byte."""
    good = write_shard(open_store(folder / "good"), shard_name(0), [make_sample(1)])
    store = open_store(folder)
    store.put_new(shard_name(0), content)
    forged = _forged(good.samples, content)
    info = ShardInfo(shard_name(0), len(content), sha256(content), forged)
    publish_manifest(store, [publish_part(store, info)])
    with suppress(ShardError):  # a reader that does not need the hostile member may go on
        for picture in ShardReader(folder).read(Request(0, (0, 1, 2))).pictures.values():
            decode_picture(picture)
    return verify(folder).exit_code == EXIT_DAMAGED


def _forged(samples: SampleColumns, content: bytes) -> SampleColumns:
    """Have offsets, lengths and checksums be those of the members in the tar."""
    offset, length, crc32 = (a.copy() for a in (samples.offset, samples.length, samples.crc32))
    with (
        suppress(tarfile.ReadError),
        tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar,
    ):
        for header in tar:
            member = header.name.partition(".")[2]
            if member in samples.member_names:
                at = samples.name_code.tolist().index(samples.member_names.index(member))
                held = content[header.offset_data : header.offset_data + header.size]
                offset[at], length[at] = header.offset_data, len(held)
                crc32[at] = zlib.crc32(held)
    return replace(samples, offset=offset, length=length, crc32=crc32)


def test_fewer_shards_than_ranks_and_uneven_counts_hang_nothing(server, tmp_path):
    """13 samples in one shard over 4 ranks: each has the same number of batches."""
    url = f"s3://{BUCKET}/one-shard"
    store = open_store(url)
    written = write_shard(store, shard_name(0), map(make_sample, range(13)))
    publish_manifest(store, [publish_part(store, written)])
    outs = [tmp_path / f"{rank}" for rank in range(GLOBAL_BATCH // GHOST_BATCH)]
    workers = [_start(url, out, server, 0, rank, 4, 4) for rank, out in enumerate(outs)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    told = [_lines(out) for out in outs]
    assert {len(lines) for lines in told} == {4}
    counts = Counter(sample for lines in told for line in lines for sample in line[3])
    assert set(counts) == set(range(13))
    assert set(counts.values()) == {2}
    print("13 samples, 1 shard, 4 ranks: 4 batches on each, every sample twice in 2 epochs")


def test_an_upload_cut_at_50_points_never_looks_whole(server):
    """The writer makes 7 requests; at each, it is killed when 0, 1/7 ... of the body is sent."""
    no_set = whole = half_objects = 0
    for number in range(50):
        url = f"s3://{BUCKET}/cut-{number}"
        faults = Faults(cut_at=number // 7, cut_share=number % 7 / 7)
        with fault_proxy(server.port, faults) as port:
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITE, url], env=_environment(port, server)
            )
            faults.on_cut = writer.kill
            writer.wait()
        assert writer.returncode == (-signal.SIGKILL if number < 49 else 0)
        try:
            manifest = load_manifest(url)
        except ManifestError:
            no_set += 1
        else:
            whole += 1
            assert (verify(url).findings, manifest.num_samples) == ((), 4)
        half_objects += _write_again(url, server)
        assert verify(url).findings == ()
    assert (no_set, whole) == (49, 1)
    print(
        f"50 uploads, 49 cut: {no_set} are no set, {whole} is; all are after a second run, before "
        f"which {half_objects} half objects that the server had kept had to be removed"
    )


def _write_again(url: str, server: S3Server) -> int:
    """Run the writer again; where it refuses a half object, remove that first, as it says."""
    try:
        _write(url)
    except (AlreadyInStoreError, ManifestError) as error:
        name = str(error).partition(f"{url}/")[2].partition(":")[0]
        obstore.delete(server.store(url.rpartition("/")[2]), name)
        _write(url)
        return 1
    return 0


def _write(url: str) -> None:
    store = open_store(url)
    entries = []
    for number in range(2):
        samples = map(make_sample, range(2 * number, 2 * number + 2))
        entries.append(publish_part(store, write_shard(store, shard_name(number), samples)))
    publish_manifest(store, entries)


_WRITE = "import sys; from test_stream_faults import _write; _write(sys.argv[1])"


def test_of_two_writers_of_one_output_one_set_comes_out(server):
    url = f"s3://{BUCKET}/two-writers"
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITE, url], env=_environment(None, server))
        for _ in range(2)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert verify(url).findings == ()
    other = write_shard(open_store(f"{url}-other"), "x.tar", [make_sample(9)])
    with pytest.raises(AlreadyInStoreError):
        publish_part(open_store(url), _renamed(other))
    assert verify(url).findings == ()


def _renamed(info: ShardInfo) -> ShardInfo:
    return replace(info, name=shard_name(0))


def test_a_shard_cut_in_the_bucket_is_noticed(server, remote, tmp_path):
    """The object itself is short: what a writer without our checks would have left."""
    content = open_store(remote).get(shard_name(1))
    url = f"s3://{BUCKET}/short"
    store = open_store(url)
    for name in open_store(remote).list_names():
        cut = (
            content[: len(content) // 2] if name == shard_name(1) else open_store(remote).get(name)
        )
        store.put_new(name, cut)
    reader = ShardReader(url, "skip_and_count")
    read = [sample is not None for sample in reader.stream(map(Request, range(NUM_SAMPLES)))]
    assert read[:3] == [True] * 3
    assert not all(read[3:20])
    assert all(read[20:])
    with pytest.raises(CorruptSampleError):
        list(ShardReader(url).stream(map(Request, range(NUM_SAMPLES))))
