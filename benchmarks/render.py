"""How fast does the CPU renderer draw, against rays and OpenGL on the same CPU?

    python -m benchmarks.render [--quick]

Self-occluding knots of 4.6 k, 49 k and 498 k triangles, the paper's 20 views at 224 px, shaded
colour, depth and face ids; CPU time of one thread, set-up of each mesh included, the renderers in
turns (benchmarks/render_peers.py). The last line of stdout is one JSON object; a full run also
writes the record.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from jaxtyping import Int32

from benchmarks.readers import measure_obj
from benchmarks.record import Json, write_record
from benchmarks.render_peers import PeerViews, find_peers
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.render.meshes import Material, Mesh
from picpoint.render.rasterizer import RasterizerConfig, Rendering, render

# Rings of the knot and corners of each ring: 4,608, 48,984 and 498,000 triangles.
SIZES = {"4.6k": (96, 24), "49k": (314, 78), "498k": (1000, 249)}
_COLOR = (0.8, 0.5, 0.3)
_PACKAGES = ("numba", "llvmlite", "numpy", "embreex", "open3d-cpu", "moderngl")


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time the CPU renderer.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no record")
    quick = parser.parse_args().quick
    results = measure(repeats=3 if quick else 9)
    print_table(results)
    results |= measure_obj(repeats=3 if quick else 9)
    if not quick:
        print("wrote", write_record("render", results, _PACKAGES))
    print(json.dumps(results))


def measure(repeats: int) -> dict[str, Json]:
    """Time all renderers on every mesh, in turns; the medians of `repeats` rounds."""
    cameras = build_cameras(RigConfig())
    peers = find_peers(cameras)
    contestants: dict[str, Callable[[Mesh], Rendering | PeerViews]] = {
        "picpoint": lambda mesh: render(mesh, cameras, RasterizerConfig(supersampling=1)),
        "picpoint_2x2": lambda mesh: render(mesh, cameras, RasterizerConfig(supersampling=2)),
        **peers,
    }
    warm_up = knot(12, 8)
    for draw_views in contestants.values():
        draw_views(warm_up)
    sizes: dict[str, dict[str, Json]] = {}
    ratios: dict[str, dict[str, Json]] = {}
    for size, (rings, corners) in SIZES.items():
        mesh = knot(rings, corners)
        agreement = _agreement(mesh, contestants)
        seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for _ in range(repeats):
            for contestant, draw_views in contestants.items():
                seconds[contestant].append(_cpu_seconds(draw_views, mesh))
        sizes[size] = _summary(seconds, len(mesh.faces), len(cameras.view_matrices))
        sizes[size]["face_ids_as_picpoint"] = agreement
        for peer in peers:
            ratios.setdefault(f"vs_{peer}", {})[size] = _ratio(seconds[peer], seconds["picpoint"])
        cost = _ratio(seconds["picpoint_2x2"], seconds["picpoint"])
        ratios.setdefault("cost_of_2x2", {})[size] = cost
    return {**ratios, "sizes": sizes}


def knot(rings: int, corners: int) -> Mesh:
    """Build a trefoil knot of a fluted tube: closed, and much of it hides behind itself."""
    along = np.linspace(0, 2 * np.pi, rings, endpoint=False)[:, None]
    around = np.linspace(0, 2 * np.pi, corners, endpoint=False)[None]
    tangent = _trefoil(along + 1e-4) - _trefoil(along - 1e-4)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    normal = np.cross(tangent, np.broadcast_to([0.3, 0.2, 1.0], tangent.shape))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    radius = 0.55 + 0.14 * np.sin(5 * around + 9 * along)[..., None]
    ring = np.cos(around)[..., None] * normal + np.sin(around)[..., None] * np.cross(
        tangent, normal
    )
    vertices = (_trefoil(along) + radius * ring).reshape(-1, 3)
    vertices /= np.linalg.norm(vertices, axis=1).max()
    faces = _closed_grid(rings, corners)
    return Mesh(
        vertices=vertices.astype(np.float32),
        faces=faces,
        face_material=np.zeros(len(faces), np.int32),
        materials=(Material(_COLOR),),
        uv=np.zeros((len(faces), 3, 2), np.float32),
    )


def print_table(results: dict[str, Any]) -> None:
    """Print the results for people."""
    for size, result in results["sizes"].items():
        print(f"{size} triangles, {result['num_faces']}")
        for name, ms in result["ms_per_view"].items():
            ns = result["ns_per_face_and_view"][name]
            ratio = results.get(f"vs_{name}", {}).get(size)
            versus = f"   picpoint is {ratio:.2f} times as fast" if ratio else ""
            print(f"  {name:<13}{ms:8.2f} ms/view {ns:8.1f} ns/triangle{versus}")


def _cpu_seconds(draw_views: Callable[[Mesh], object], mesh: Mesh) -> float:
    start = time.process_time()
    draw_views(mesh)
    return time.process_time() - start


def _agreement(
    mesh: Mesh, contestants: Mapping[str, Callable[[Mesh], Rendering | PeerViews]]
) -> dict[str, Json]:
    """Give the share of pixels covered by both on which each peer shows the same face."""
    views = {name: draw_views(mesh).face_id for name, draw_views in contestants.items()}
    own = views.pop("picpoint")
    views.pop("picpoint_2x2")
    return {
        name: round(float((face_id == own)[(face_id >= 0) & (own >= 0)].mean()), 5)
        for name, face_id in views.items()
    }


def _ratio(slower: list[float], faster: list[float]) -> float:
    """Give the median over the rounds of a ratio of times."""
    return round(statistics.median(a / b for a, b in zip(slower, faster, strict=True)), 2)


def _summary(seconds: dict[str, list[float]], num_faces: int, num_views: int) -> dict[str, Json]:
    """Summarise the repeats of one mesh."""
    median_s = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "num_faces": num_faces,
        "repeats": len(seconds["picpoint"]),
        "ms_per_view": {name: round(1e3 * s / num_views, 3) for name, s in median_s.items()},
        "views_per_cpu_s": {name: round(num_views / s, 1) for name, s in median_s.items()},
        "ns_per_face_and_view": {
            name: round(1e9 * s / num_views / num_faces, 1) for name, s in median_s.items()
        },
    }


def _trefoil(angle: np.ndarray) -> np.ndarray:
    """Give points of a trefoil knot, stacked in a last axis."""
    return np.stack(
        [
            np.sin(angle) + 2 * np.sin(2 * angle),
            np.cos(angle) - 2 * np.cos(2 * angle),
            -np.sin(3 * angle),
        ],
        axis=-1,
    )


def _closed_grid(rows: int, columns: int) -> Int32[np.ndarray, "m 3"]:
    """Triangulate a grid whose last row and column meet the first again."""
    row, column = np.mgrid[:rows, :columns]
    below, right = (row + 1) % rows, (column + 1) % columns
    a, b = row * columns + column, below * columns + column
    c, d = below * columns + right, row * columns + right
    faces = np.concatenate([np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)])
    return np.ascontiguousarray(faces.reshape(-1, 3), np.int32)


if __name__ == "__main__":
    main()
