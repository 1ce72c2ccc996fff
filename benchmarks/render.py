"""How fast does the CPU renderer draw, against Embree's rays?

    python -m benchmarks.render [--quick]

Self-occluding knots of 4.6 k, 49 k and 498 k triangles, the paper's 20 views at 224 px, shaded
colour, depth and face ids; CPU time of one thread, set-up of each mesh included, the two renderers
in turns. Embree shades as the renderer does without supersampling: the light formula on flat
normals. The last line of stdout is one JSON object; a full run also writes the record.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float32, Int32, UInt8

from benchmarks.record import Json, write_record
from picpoint.geometry.cameras import Cameras
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.render.meshes import Material, Mesh
from picpoint.render.rasterizer import RasterizerConfig, render

# Rings of the knot and corners of each ring: 4,608, 48,984 and 498,000 triangles.
SIZES = {"4.6k": (96, 24), "49k": (314, 78), "498k": (1000, 249)}
_COLOR = (0.8, 0.5, 0.3)
_PACKAGES = ("numba", "llvmlite", "numpy", "embreex")


@dataclass(frozen=True, slots=True)
class EmbreeViews:
    """What Embree's rays show: the fields of a `Rendering`, one ray a pixel."""

    colour: UInt8[np.ndarray, "V S S 3"]
    depth: Float32[np.ndarray, "V S S"]
    face_id: Int32[np.ndarray, "V S S"]


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Time the CPU renderer.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no record")
    quick = parser.parse_args().quick
    results = measure(repeats=3 if quick else 9)
    print_table(results)
    if not quick:
        print("wrote", write_record("render", results, _PACKAGES))
    print(json.dumps(results))


def measure(repeats: int) -> dict[str, Json]:
    """Time both renderers on every mesh, in turns; the medians of `repeats` rounds."""
    cameras = build_cameras(RigConfig())
    contestants: dict[str, Callable[[Mesh], object]] = {
        "picpoint": lambda mesh: render(mesh, cameras, RasterizerConfig(supersampling=1)),
        "picpoint_2x2": lambda mesh: render(mesh, cameras, RasterizerConfig(supersampling=2)),
        "embreex": lambda mesh: cast_views(mesh, cameras),
    }
    warm_up = knot(12, 8)
    for draw_views in contestants.values():
        draw_views(warm_up)
    results: dict[str, Json] = {}
    for name, (rings, corners) in SIZES.items():
        mesh = knot(rings, corners)
        seconds = {contestant: [] for contestant in contestants}
        for _ in range(repeats):
            for contestant, draw_views in contestants.items():
                seconds[contestant].append(_cpu_seconds(draw_views, mesh))
        results[name] = _summary(seconds, len(mesh.faces), len(cameras.view_matrices))
    return results


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


def cast_views(mesh: Mesh, cameras: Cameras) -> EmbreeViews:
    """Render with one of Embree's rays for each pixel, scene and shading included."""
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    shape = (len(cameras.view_matrices), cameras.size_px, cameras.size_px)
    views = EmbreeViews(
        colour=np.empty((*shape, 3), np.uint8),
        depth=np.empty(shape, np.float32),
        face_id=np.empty(shape, np.int32),
    )
    centre = ((np.arange(cameras.size_px) + 0.5) / cameras.size_px * 2 - 1).astype(np.float32)
    tangent = 1 / cameras.projection_matrices[0, 0, 0]
    x, y = np.meshgrid(centre * tangent, -centre * tangent)
    in_camera = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    in_camera /= np.linalg.norm(in_camera, axis=1, keepdims=True)
    for view, position in enumerate(cameras.positions):
        rays = np.ascontiguousarray(in_camera @ cameras.view_matrices[view, :3, :3])
        origins = np.broadcast_to(position, rays.shape).copy()
        hit = scene.run(origins, rays, output=True)
        face_id = hit["primID"].astype(np.int32)
        empty = face_id < 0
        depth = hit["tfar"] * -in_camera[:, 2]
        depth[empty] = np.inf
        views.face_id[view] = face_id.reshape(shape[1:])
        views.depth[view] = depth.reshape(shape[1:])
        views.colour[view] = _shade(hit["Ng"], rays, empty).reshape(*shape[1:], 3)
    return views


def print_table(results: dict[str, Json]) -> None:
    """Print the results for people."""
    for name, result in results.items():
        print(name, json.dumps(result))


def _cpu_seconds(draw_views: Callable[[Mesh], object], mesh: Mesh) -> float:
    start = time.process_time()
    draw_views(mesh)
    return time.process_time() - start


def _summary(seconds: dict[str, list[float]], num_faces: int, num_views: int) -> dict[str, Json]:
    """Summarise the repeats of one mesh; ratios are medians of the ratios of each round."""
    own, ray = seconds["picpoint"], seconds["embreex"]
    median_s = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "num_faces": num_faces,
        "repeats": len(own),
        "vs_embreex": round(statistics.median(b / a for a, b in zip(own, ray, strict=True)), 2),
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


def _shade(
    normals: Float32[np.ndarray, "P 3"],
    rays: Float32[np.ndarray, "P 3"],
    empty: np.ndarray,
) -> UInt8[np.ndarray, "P 3"]:
    """Light flat faces as picpoint.render.shading does."""
    along = np.einsum("pc,pc->p", normals, rays)
    length = np.maximum(np.linalg.norm(normals, axis=1), 1e-30)
    towards_sky = np.where(along < 0, normals[:, 1], -normals[:, 1]) / length
    light = 0.30 + 0.45 * np.abs(along) / length + 0.10 * (1 + towards_sky)
    colour = (255 * light[:, None] * np.array(_COLOR, np.float32) + 0.5).astype(np.uint8)
    colour[empty] = 255
    return colour


if __name__ == "__main__":
    main()
