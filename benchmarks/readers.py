"""How fast is an OBJ file read, against trimesh?

    python -m benchmarks.readers [--quick]

A closed surface of 49 k triangles with texture coordinates and normals, written as programs write
it; CPU time of one thread, the two in turns. Parsing is from the file's bytes to arrays: our
`parse_obj` against trimesh's own `load_obj`. Reading adds what makes it fit to be drawn: our
`read_mesh` against trimesh's `load_mesh` without its clean-up. The last line of stdout is one JSON
object; a full run also writes the record.
"""

import argparse
import io
import json
import math
import os
import statistics
import time
from collections.abc import Callable

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import trimesh
from trimesh.exchange.obj import load_obj

from benchmarks.record import Json, write_record
from picpoint.render.obj import parse_obj
from picpoint.render.readers import DEFAULT_LIMITS, read_mesh

_RINGS, _CORNERS = 314, 78
_PACKAGES = ("numba", "llvmlite", "numpy", "trimesh")


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time the OBJ reader.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no record")
    quick = parser.parse_args().quick
    results = measure_obj(repeats=5 if quick else 15)
    if not quick:
        print("wrote", write_record("readers", results, _PACKAGES))
    print(json.dumps(results))


def measure_obj(repeats: int) -> dict[str, Json]:
    """Time reading one OBJ file; the medians of `repeats` rounds, ratios those of each round."""
    content = obj_bytes(_RINGS, _CORNERS)
    contestants: dict[str, Callable[[], object]] = {
        "parse": lambda: parse_obj(content, DEFAULT_LIMITS.max_faces),
        "read": lambda: read_mesh(content, "surface.obj"),
        "trimesh_parse": lambda: load_obj(io.BytesIO(content), resolver=None),
        "trimesh_read": lambda: trimesh.load_mesh(
            io.BytesIO(content), file_type="obj", process=False
        ),
    }
    for read in contestants.values():
        read()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, read in contestants.items():
            start = time.process_time()
            read()
            seconds[name].append(time.process_time() - start)
    parse_s = statistics.median(seconds["parse"])
    return {
        "num_bytes": len(content),
        "num_faces": 2 * _RINGS * _CORNERS,
        "repeats": repeats,
        "obj_mb_per_s": round(len(content) / parse_s / 1e6, 1),
        "obj_vs_trimesh": _ratio(seconds["trimesh_parse"], seconds["parse"]),
        "obj_read_vs_trimesh": _ratio(seconds["trimesh_read"], seconds["read"]),
        "obj_ms": {name: round(1e3 * statistics.median(s), 2) for name, s in seconds.items()},
    }


def obj_bytes(rings: int, corners: int) -> bytes:
    """Write a fluted torus as an OBJ file with `v`, `vt`, `vn` and `f v/vt/vn`, triangles only."""
    row, column = (grid.ravel() for grid in np.mgrid[:rings, :corners])
    u, v = row / rings, column / corners
    along, around = math.tau * u, math.tau * v
    radius = 0.3 + 0.05 * np.sin(5 * around + 9 * along)
    across = np.cos(around)
    x, z = np.cos(along), np.sin(along)
    positions = np.stack(
        [x * (1 + radius * across), radius * np.sin(around), z * (1 + radius * across)], axis=1
    )
    normals = np.stack([x * across, np.sin(around), z * across], axis=1)
    below, right = (row + 1) % rings, (column + 1) % corners
    a, b = row * corners + column, below * corners + column
    c, d = below * corners + right, row * corners + right
    faces = 1 + np.concatenate([np.stack([a, c, b], axis=1), np.stack([a, d, c], axis=1)])
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in positions.tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in zip(u.tolist(), v.tolist(), strict=True)]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in normals.tolist()]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in faces.tolist()]
    return "\n".join(lines).encode() + b"\n"


def _ratio(slow: list[float], fast: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(slow, fast, strict=True)), 2)


if __name__ == "__main__":
    main()
