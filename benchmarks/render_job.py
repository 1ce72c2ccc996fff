"""How does the render job grow, with workers and with shapes?

    python -m benchmarks.render_job [--quick]

The shapes of the demo are rendered by `picpoint render` with 1 and with 2 workers, at its defaults;
then lists of 100, 1,000 and 10,000 small shapes, whose capture costs next to nothing, so that what
the job itself costs shows: per shape it must not grow. CPU time and memory are those of the job and
of all its processes. The last line of stdout is one JSON object; a full run also writes the record.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.record import Json, write_record
from picpoint.assets import DEMO_SHAPES
from picpoint.render.sources import CATALOGUE

_PACKAGES = ("numba", "numpy", "pyarrow", "obstore")
_POLL_S = 0.2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A tetrahedron as an OFF file, of which each shape of the long lists is a copy.
_SMALL_SHAPE = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
_CHEAP = ("capture.num_points=64", "shapes_per_shard=50", "capture.rig.size_px=16")
_VIEWS = 20


@dataclass(slots=True)
class Usage:
    """What the processes of one job took.

    Attributes:
        wall_s: from start to end.
        cpu_s: of all processes, as last seen of each.
        resident_mb: of the largest worker, at every look.
    """

    wall_s: float = 0.0
    cpu_s: dict[int, float] = field(default_factory=dict[int, float])
    resident_mb: list[float] = field(default_factory=list[float])

    @property
    def all_cpu_s(self) -> float:
        """CPU time of all processes together."""
        return sum(self.cpu_s.values())

    @property
    def memory_growth(self) -> float:
        """Memory of the largest worker in the last fifth of the run, over that in the second."""
        fifth = max(1, len(self.resident_mb) // 5)
        early, late = self.resident_mb[fifth : 2 * fifth], self.resident_mb[-fifth:]
        return max(late) / max(early or late)


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time the render job.")
    parser.add_argument("--quick", action="store_true", help="fewer shapes, no record")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Json] = {
            "workers": _by_workers(Path(folder), num_shapes=16 if quick else 172),
            "growth": _by_shapes(Path(folder), (50, 400) if quick else (100, 1_000, 10_000)),
        }
    if not quick:
        print("wrote", write_record("render_job", results, _PACKAGES))
    print(json.dumps(results))


def _by_workers(folder: Path, num_shapes: int) -> dict[str, Json]:
    """Render shapes of the demo with 1 and with 2 workers."""
    results: dict[str, Json] = {}
    for workers in (1, 2):
        usage = run_job(
            folder / f"workers-{workers}",
            (f"source={_first_shapes(folder, num_shapes)}", "shapes_per_shard=8"),
            workers,
        )
        results[str(workers)] = {
            "num_shapes": num_shapes,
            "shapes_per_s": round(num_shapes / usage.wall_s, 2),
            "views_per_s": round(num_shapes * _VIEWS / usage.wall_s, 1),
            "cpu_s_per_shape": round(usage.all_cpu_s / num_shapes, 4),
            "worker_mb": round(max(usage.resident_mb)),
            "worker_memory_growth": round(usage.memory_growth, 3),
        }
        print(workers, json.dumps(results[str(workers)]))
    return results


def _by_shapes(folder: Path, counts: tuple[int, ...]) -> dict[str, Json]:
    """Render lists of small shapes of growing length with 2 workers."""
    results: dict[str, Json] = {}
    for count in counts:
        usage = run_job(
            folder / f"shapes-{count}", (f"source={_small_shapes(folder, count)}", *_CHEAP), 2
        )
        results[str(count)] = {
            "ms_per_shape_cpu": round(1e3 * usage.all_cpu_s / count, 2),
            "worker_mb": round(max(usage.resident_mb)),
            "worker_memory_growth": round(usage.memory_growth, 3),
        }
        print(count, json.dumps(results[str(count)]))
    return results


def run_job(out: Path, overrides: tuple[str, ...], workers: int) -> Usage:
    """Run `picpoint render` in a session of its own, and watch it."""
    command = [sys.executable, "-m", "cluster.app", "render", f"out={out}", *overrides]
    usage = Usage()
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, f"fleet.max_workers={workers}"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as job:
        while job.poll() is None:
            _look(job.pid, usage)
            time.sleep(_POLL_S)
    usage.wall_s = time.perf_counter() - started
    if job.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {job.returncode}")
    return usage


def _look(session: int, usage: Usage) -> None:
    """Note the CPU time and the memory of every process of a session."""
    largest = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            pages = int((folder / "statm").read_text().split()[1])
        except OSError:  # it has just ended
            continue
        if int(stat[3]) == session:
            usage.cpu_s[int(folder.name)] = (int(stat[11]) + int(stat[12])) / _TICKS_PER_S
            if int(folder.name) != session:
                largest = max(largest, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    if largest:
        usage.resident_mb.append(largest)


def _first_shapes(folder: Path, count: int) -> Path:
    """Unpack shapes of the demo into a folder, once."""
    source = folder / "demo"
    if source.exists():
        return source
    source.mkdir()
    with zipfile.ZipFile(DEMO_SHAPES) as pack:
        rows = list(csv.reader(io.StringIO(pack.read(CATALOGUE).decode())))
        kept = [rows[0], *rows[1 :: max(1, (len(rows) - 1) // count)][:count]]
        for row in kept[1:]:
            pack.extract(row[rows[0].index("file")], source)
    with (source / CATALOGUE).open("w", newline="") as catalogue:
        csv.writer(catalogue).writerows(kept)
    return source


def _small_shapes(folder: Path, count: int) -> Path:
    """Write a catalogue of many shapes that are all read from one file."""
    source = folder / f"small-{count}"
    source.mkdir()
    (source / "shape.off").write_text(_SMALL_SHAPE)
    rows = "".join(f"shape-{number:05d},small,shape.off\n" for number in range(count))
    (source / CATALOGUE).write_text("source_id,label,file\n" + rows)
    return source


if __name__ == "__main__":
    main()
