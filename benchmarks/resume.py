"""How long until the first batch after a resume, and in how much memory, at 10 million samples?

    python -m benchmarks.resume            a batch of 4,096, ten starts; a record
    python -m benchmarks.resume --quick    three starts, under a minute

The set has 6,667 shards of 1,500 samples with 20 views each, as one of 10 million shapes would. It
is made up as it is read: tables, parts and tars are real bytes, checked as ever, but the parts of
all shards tell of the same 1,500 rows, and these are 24 samples over and over. Each start is a
process of its own that opens the set, asks the plan for a batch in mid-epoch, reads an eighth of
it (one rank of eight) and decodes one view of each sample. `first_batch_s` is from opening to the
last sample, `plan_s` without reading samples; `plan_mb` is what resident memory grew by meanwhile,
rows included. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.record import Json, write_record
from benchmarks.shuffle import buffered_order, label_entropy, neighbour_spread
from benchmarks.stream_set import make_ellipsoid
from shards.codec import decode_picture
from shards.columns import ShardEntry, ShardInfo, columns_of, shard_name
from shards.manifest import load_manifest, publish_manifest, publish_part
from shards.parts import part_name
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader
from shards.store import LocalStore, sha256
from shards.writer import write_shard

NUM_SHARDS, PER_SHARD = 6_667, 1_500
NUM_DISTINCT = 24
GLOBAL_BATCH, NUM_RANKS = 4_096, 8
_PACKAGES = ("numpy", "pyarrow", "simplejpeg")


class RepeatedStore(LocalStore):
    """A folder in which all shards are one, and so are their parts but for the shard's name."""

    def get(self, name: str) -> bytes:
        """Read a table, or the part of shard 0 as that of another."""
        if not name.startswith("manifest/samples/"):
            return super().get(name)
        shard = name.removeprefix("manifest/samples/").removesuffix(".parquet") + ".tar"
        return renamed(super().get(part_name(shard_name(0))), shard)


def renamed(part: bytes, shard: str) -> bytes:
    """Have a part tell of another shard; names are of one length, so only they change."""
    return part.replace(shard_name(0).encode(), shard.encode())


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time a resume at 10 million samples.")
    parser.add_argument("--quick", action="store_true", help="few starts, no record")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--samples-seen", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        print(json.dumps(start(options.start, options.samples_seen)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_set(Path(folder))
        results = measure_starts(Path(folder), num_starts=3 if options.quick else 10)
    if not options.quick:
        results["shuffle"] = _shuffle_quality()
        print("wrote", write_record("resume", results, _PACKAGES))
    print(json.dumps(results))


def make_set(folder: Path) -> None:
    """Write one shard, and the tables of a set of 6,667 like it."""
    store = LocalStore(folder)
    written = write_shard(store, shard_name(0), map(make_ellipsoid, range(NUM_DISTINCT)))
    rows = written.samples.rows()
    info = ShardInfo(
        written.name,
        written.num_bytes,
        written.sha256,
        columns_of([rows[number % NUM_DISTINCT] for number in range(PER_SHARD)]),
    )
    entry = publish_part(store, info)
    part = store.get(part_name(entry.name))
    if part.count(entry.name.encode()) != 1:
        raise RuntimeError("the name of a shard stands elsewhere than once in its part")
    for number in range(1, NUM_SHARDS):
        (folder / shard_name(number)).symlink_to(folder / entry.name)
    publish_manifest(store, [_entry(entry, part, number) for number in range(NUM_SHARDS)])


def _entry(entry: ShardEntry, part: bytes, number: int) -> ShardEntry:
    name = shard_name(number)
    return replace(entry, name=name, part_sha256=sha256(renamed(part, name)))


def measure_starts(folder: Path, num_starts: int) -> dict[str, Json]:
    """Start in processes of their own, each in the middle of another epoch's batch; medians."""
    epoch = NUM_SHARDS * PER_SHARD // GLOBAL_BATCH * GLOBAL_BATCH
    generator = np.random.default_rng(0)
    found: list[dict[str, float]] = []
    for _ in range(num_starts):
        batch = int(generator.integers(0, epoch // GLOBAL_BATCH))
        command = [sys.executable, "-m", "benchmarks.resume", f"--start={folder}"]
        command.append(f"--samples-seen={3 * epoch + batch * GLOBAL_BATCH}")
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    return {
        "num_samples": NUM_SHARDS * PER_SHARD,
        "num_shards": NUM_SHARDS,
        "global_batch": GLOBAL_BATCH,
        "samples_per_rank": GLOBAL_BATCH // NUM_RANKS,
        **{name: round(statistics.median(each[name] for each in found), 3) for name in found[0]},
        "slowest_first_batch_s": round(max(each["first_batch_s"] for each in found), 3),
    }


def start(folder: Path, samples_seen: int) -> dict[str, float]:
    """Open the set in mid-epoch and read one rank's share of a batch; CPU times of this process."""
    before_mb, start_s = _resident_mb(), time.process_time()
    manifest = load_manifest(RepeatedStore(folder))
    plan = ReadPlan(manifest.digest, manifest.num_samples, GLOBAL_BATCH, 0, "drop_last")
    slots = plan.batch_at(samples_seen).sample_index[plan.rank_slice(8, 3, NUM_RANKS)]
    planned_s = time.process_time()
    _read(ShardReader(manifest), slots.tolist())
    return {
        "first_batch_s": time.process_time() - start_s,
        "plan_s": planned_s - start_s,
        "plan_mb": _resident_mb() - before_mb,
    }


def _read(reader: ShardReader, sample_indices: Sequence[int]) -> None:
    requests = (Request(index, (index % 20,)) for index in sample_indices)
    with closing(reader.stream(requests, read_ahead=32)) as samples:
        for sample in samples:
            assert sample is not None
            for content in sample.pictures.values():
                decode_picture(content)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _shuffle_quality() -> dict[str, Json]:
    """Compare with a buffer of 10,000 over shards of 1,500; 55 classes, stored one by one."""
    size = 1_000_000
    labels = np.arange(size) * 55 // size
    orders = {
        "ours": ReadPlan("d" * 64, size, 512, 0, "drop_last").positions_to_samples(
            0, np.arange(size)
        ),
        "buffer_of_10000": buffered_order(size, PER_SHARD, 10_000, 0),
    }
    return {
        name: {
            "neighbour_spread": round(neighbour_spread(order), 4),
            "label_entropy_of_512": round(label_entropy(order, labels, 512), 4),
        }
        for name, order in orders.items()
    }


if __name__ == "__main__":
    main()
