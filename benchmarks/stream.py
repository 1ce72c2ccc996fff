"""How fast are samples read, next to the floor and to other libraries?

    python -m benchmarks.stream            172 rendered shapes; a record
    python -m benchmarks.stream --quick    48 drawn ones, under a minute

Contestants read the same samples in turns, from a folder and from an S3 server on this machine;
what counts is the CPU time of this process (with ray.data, from a folder alone, of all processes),
medians over the rounds.
The floor knows where every byte lies, reads what is needed, checks it and decodes it.
`floor_fraction` is its time over ours, `vs_NAME` that of a peer over ours. Bytes and requests are
those of ours, so that the cost on a cloud store can be told; `bytes_whole` is what reading whole
shards takes. Peers that are not installed (`pip install -e '.[bench]'`) are left out. The last line
of stdout is one JSON object.
"""

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.record import Json, write_record
from benchmarks.stream_readers import (
    SCENARIOS,
    Epoch,
    Scenario,
    floor,
    litdata,
    mosaicml_streaming,
    ours,
    ray_data,
    webdataset,
)
from benchmarks.stream_set import write_synthetic_set
from shards.fetch import MAX_GAP_BYTES, coalesce
from shards.manifest import Manifest, load_manifest
from shards.store import open_store

_PACKAGES = (
    *(
        "numpy",
        "obstore",
        "simplejpeg",
        "zlib-ng",
        "pyarrow",
        "webdataset",
        "litdata",
        "mosaicml-streaming",
        "ray",
    ),
)

# Read one after another where the clock has ticks of 10 ms.
_OUR_EPOCHS = 20


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time the streaming of shards.")
    parser.add_argument("--quick", action="store_true", help="few drawn samples, no record")
    parser.add_argument("--set", type=Path, help="a rendered shard set, instead of rendering one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = _local_set(options.quick, options.set, folder)
        results: dict[str, Json] = {"num_samples": manifest.num_samples}
        rounds = 3 if options.quick else 9
        results["local"] = {
            scenario.name: _measure(manifest, scenario, rounds, folder) for scenario in SCENARIOS
        }
        if not options.quick:
            results["two_processes"] = _in_two_processes(manifest)
            results["epoch_growth_mb"] = _growth_mb(manifest)
            results["ray_data"] = _against_ray_data(manifest)
        with ExitStack() as stack:
            remote = stack.enter_context(_on_s3(manifest, folder))
            results["s3"] = {
                scenario.name: _measure(remote, scenario, rounds, folder / "peers")
                for scenario in SCENARIOS
            }
    if not options.quick:
        print("wrote", write_record("stream", results, _PACKAGES))
    print(json.dumps(results))


def _local_set(quick: bool, rendered: Path | None, folder: Path) -> Manifest:
    if rendered is not None:
        return load_manifest(rendered)
    if quick:
        return write_synthetic_set(folder / "set", num_samples=48, per_shard=16)
    command = [sys.executable, "-m", "cluster.app", "render", f"out={folder / 'set'}"]
    subprocess.run(command, check=True)
    return load_manifest(folder / "set")


def _measure(manifest: Manifest, scenario: Scenario, rounds: int, folder: Path) -> dict[str, Json]:
    """Run all contestants in turns, over the whole set."""
    order = np.random.default_rng(0).permutation(manifest.num_samples).tolist()
    contestants: dict[str, Epoch] = {
        "ours": ours(manifest, order, scenario),
        "floor": floor(manifest, order, scenario),
        "webdataset": webdataset(manifest, scenario),
    }
    if "://" not in manifest.url and _is_installed("litdata", scenario):
        contestants["litdata"] = litdata(manifest, folder / "litdata", scenario)
    if _is_installed("streaming", scenario):
        contestants["streaming"] = mosaicml_streaming(manifest, folder / "mds", scenario)
    cpu_s: dict[str, list[float]] = {name: [] for name in contestants}
    wall_s: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, epoch in contestants.items():
            start_cpu_s, start_s = time.process_time(), time.perf_counter()
            if epoch() != manifest.num_samples:
                raise RuntimeError(f"{name} lost samples")
            if round_number:  # the first fills caches
                cpu_s[name].append(time.process_time() - start_cpu_s)
                wall_s[name].append(time.perf_counter() - start_s)
    return _summary(manifest, order, scenario, cpu_s, wall_s)


def _is_installed(module: str, scenario: Scenario) -> bool:
    if importlib.util.find_spec(module):
        return True
    if scenario is SCENARIOS[0]:
        print(f"{module} is not installed and left out: pip install -e '.[bench]'")
    return False


def _summary(
    manifest: Manifest,
    order: Sequence[int],
    scenario: Scenario,
    cpu_s: dict[str, list[float]],
    wall_s: dict[str, list[float]],
) -> dict[str, Json]:
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(times, cpu_s["ours"], strict=True)), 3)
        for name, times in cpu_s.items()
    }
    spent_us = {
        name: round(1e6 * statistics.median(times) / len(order), 1) for name, times in cpu_s.items()
    }
    num_requests, num_bytes = _traffic(manifest, order, scenario)
    seconds = statistics.median(cpu_s["ours"])
    print(
        f"{'s3' if '://' in manifest.url else 'local':5} {scenario.name:9} "
        + "  ".join(f"{name} {us:.0f} us" for name, us in spent_us.items())
    )
    return {
        "floor_fraction": ratios["floor"],
        **{f"vs_{name}": ratios[name] for name in ratios if name not in ("ours", "floor")},
        "cpu_us_per_sample": spent_us,
        "samples_per_s": {
            name: round(len(order) / statistics.median(times)) for name, times in wall_s.items()
        },
        "gb_per_cpu_s": round(num_bytes / seconds / 1e9, 3),
        "requests_per_cpu_s": round(num_requests / seconds),
        "requests_per_sample": round(num_requests / len(order), 2),
        "bytes_per_sample": round(num_bytes / len(order)),
        "bytes_whole": round(manifest.num_bytes / manifest.num_samples),
    }


def _traffic(manifest: Manifest, order: Sequence[int], scenario: Scenario) -> tuple[int, int]:
    """Count what our reader asks for: of files each member, of buckets runs with their gaps."""
    max_gap_bytes = 0 if open_store(manifest.url).concurrency == 1 else MAX_GAP_BYTES["network"]
    num_requests = num_bytes = 0
    for number in order:
        names = scenario.members(number)
        spans = [span for span in manifest.row(number).members if span.name in names]
        for _, length, _ in coalesce(spans, max_gap_bytes):
            num_requests += 1
            num_bytes += length
    return num_requests, num_bytes


def _in_two_processes(manifest: Manifest) -> dict[str, Json]:
    """Read halves of an epoch by two processes at once; the floor's CPU time of both over ours."""
    fractions: dict[str, Json] = {}
    for scenario in SCENARIOS:
        spent: dict[str, list[float]] = {"ours": [], "floor": []}
        for _ in range(9):
            for name, make in (("ours", ours), ("floor", floor)):
                epochs = [make(manifest, half, scenario) for half in _halves(manifest)]
                spent[name].append(_cpu_s_at_once(epochs))
        pairs = zip(spent["floor"], spent["ours"], strict=True)
        fractions[scenario.name] = {
            "floor_fraction": round(statistics.median(a / b for a, b in pairs), 3)
        }
    return fractions


def _against_ray_data(manifest: Manifest) -> dict[str, Json]:
    """Compare with ray.data on one core; CPU time of this process and of all that Ray began."""
    ray = importlib.import_module("ray")  # a peer here, not what runs things
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    order = list(range(manifest.num_samples))
    found: dict[str, Json] = {}
    for scenario in SCENARIOS:
        spent: dict[str, list[float]] = {"ours": [], "ray_data": []}
        epochs = {"ours": ours(manifest, order, scenario), "ray_data": ray_data(manifest, scenario)}
        for round_number in range(4):
            for name, epoch in epochs.items():
                started_s = _family_cpu_s()
                repeats = _OUR_EPOCHS if name == "ours" else 1
                for _ in range(repeats):
                    if epoch() != manifest.num_samples:
                        raise RuntimeError(f"{name} lost samples")
                if round_number:
                    spent[name].append((_family_cpu_s() - started_s) / repeats)
        pairs = zip(spent["ray_data"], spent["ours"], strict=True)
        found[scenario.name] = {"vs_ray_data": round(statistics.median(a / b for a, b in pairs), 2)}
    ray.shutdown()
    return found


def _family_cpu_s() -> float:
    """Add up the CPU time of this process, its descendants, and those that have ended."""
    fields: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parent, *rest = path.read_text().rpartition(") ")[2].split()[1:15]
            fields[int(path.parent.name)] = [int(parent), *map(int, rest[9:13])]
    family = {os.getpid()}
    while grown := {pid for pid, each in fields.items() if each[0] in family} - family:
        family |= grown
    return sum(sum(fields[pid][1:]) for pid in family) / os.sysconf("SC_CLK_TCK")


def _halves(manifest: Manifest) -> list[list[int]]:
    order = np.random.default_rng(0).permutation(manifest.num_samples).tolist()
    return [order[0::2], order[1::2]]


def _cpu_s_at_once(epochs: Sequence[Epoch]) -> float:
    """Read epochs by a process each, all at once; tell the CPU time of all, without their start."""
    pipe, context = Pipe(duplex=False), get_context("fork")
    children = [context.Process(target=_tell_cpu_s, args=(epoch, pipe[1])) for epoch in epochs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError("a reading process failed")
    return sum(pipe[0].recv() for _ in children)


def _tell_cpu_s(epoch: Epoch, told: Connection) -> None:
    epoch()  # reads what is kept of the manifest
    start_s = time.process_time()
    epoch()
    told.send(time.process_time() - start_s)


def _growth_mb(manifest: Manifest) -> float:
    """Tell by how much the peak of memory grows from the second epoch of all views to the tenth."""
    order = list(range(manifest.num_samples))
    epoch = ours(manifest, order, SCENARIOS[-1])
    epoch()
    epoch()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(8):
        epoch()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1000, 1)


@contextmanager
def _on_s3(manifest: Manifest, folder: Path) -> Generator[Manifest]:
    """Run an S3 server of this machine, and copy the set there."""
    # The server is also that of the tests, on which nothing else may depend.
    server_of_tests = importlib.import_module("tests.s3_server")
    with server_of_tests.s3_server(folder / "s3") as server:
        os.environ.update(server.environment())
        local = open_store(manifest.url)
        remote = open_store(f"s3://{server_of_tests.BUCKET}/set")
        for name in local.list_names():
            remote.put_new(name, local.get(name))
        yield load_manifest(remote)


if __name__ == "__main__":
    main()
