"""What does a room of any number of points take to read? Time; memory only for its voxels.

    python -m benchmarks.huge_room            50 million points, a record
    python -m benchmarks.huge_room --quick    12 million, in a smaller room

A box of walls, floor and ceiling, its points at random on them, is written as rooms of S3DIS are
commonly kept (an array of x y z r g b label, float32) and read as `picpoint data prepare
s3dis_rooms` reads it: by voxels of 4 cm, every point counted. The last line of stdout is one JSON
object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.lib.format import open_memmap

from benchmarks.memory import reset_peak, status_bytes
from benchmarks.record import Json, write_record
from picpoint.data.split import HoldoutConfig
from picpoint.datasets.prepare import open_source

_PIECE_POINTS = 1_000_000
_HEIGHT_M = 3.0
_NUM_LABELS = 13


def main() -> None:
    """Write a room, read it, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Read a room of many points.")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    num_points, side_m = (12_000_000, 8.0) if options.quick else (50_000_000, 20.0)
    with tempfile.TemporaryDirectory() as folder:
        write_room(Path(folder) / "Area_1_hall_1.npy", num_points, side_m)
        results = read_room(Path(folder))
    if not options.quick:
        print("wrote", write_record("huge_room", results, ("numpy",)))
    print(json.dumps(results))


def write_room(path: Path, num_points: int, side_m: float) -> None:
    """Write points on the six sides of a square room, a piece at a time."""
    rows = open_memmap(path, "w+", np.float32, (num_points, 7))
    for start in range(0, num_points, _PIECE_POINTS):
        dice = np.random.default_rng(start)
        piece = rows[start : start + _PIECE_POINTS]
        piece[:] = _points_of(len(piece), side_m, dice)
        rows.flush()


def _points_of(
    count: int, side_m: float, dice: np.random.Generator
) -> Float32[np.ndarray, "count 7"]:
    size = np.array([side_m, side_m, _HEIGHT_M])
    places = dice.random((count, 3))
    axis = dice.integers(3, size=count)
    places[np.arange(count), axis] = dice.integers(2, size=count)
    colors = dice.integers(256, size=(count, 3))
    labels = dice.integers(_NUM_LABELS, size=(count, 1))
    return np.concatenate([places * size, colors, labels], axis=1).astype(np.float32)


def read_room(folder: Path) -> dict[str, Json]:
    """Read the only room of a folder, and tell what it took.

    Raises:
        RuntimeError: not every point was counted.
    """
    (path,) = folder.glob("*.npy")
    num_points = len(np.load(path, mmap_mode="r"))
    source = open_source("s3dis_rooms", str(folder), _PIECE_POINTS, HoldoutConfig())
    before, started_s = reset_peak(), time.process_time()
    (room,) = source.read()
    cpu_s, peak = time.process_time() - started_s, status_bytes("VmHWM")
    assert room.label_counts is not None
    if (counted := int(room.label_counts.sum())) != num_points:
        raise RuntimeError(f"{counted} of {num_points} points were counted")
    return {
        "num_points": num_points,
        "num_voxels": len(room.points),
        "file_mb": round(path.stat().st_size / 1e6),
        "peak_growth_mb": round((peak - before) / 1e6),
        "cpu_s": round(cpu_s, 2),
        "points_per_cpu_s": round(num_points / cpu_s),
    }


if __name__ == "__main__":
    main()
