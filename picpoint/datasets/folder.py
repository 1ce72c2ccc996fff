"""A user's own clouds and meshes, in folders named by class and split.

    DIR/CLASS/SPLIT/*   or   DIR/SPLIT/CLASS/*

    .npy .txt .csv      a table of x y z, or x y z nx ny nz; no header
    .ply                points, or a mesh
    .pcd                points
    .off .obj .glb ...  meshes, of whose surface points are drawn

Which of the two orders it is is told by the splits: folders named train, test, val or validation.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from pypcd4.pypcd4 import PointCloud

from picpoint.data.dataset import DatasetInfo
from picpoint.datasets.meshes import Up
from picpoint.datasets.source import (
    BrokenDataError,
    CloudSource,
    MissingDataError,
    read_table,
    z_up_to_y_up,
)
from picpoint.geometry.clouds import sample_surface
from picpoint.render.meshes import MeshError
from picpoint.render.readers import MeshLimits, read_mesh_file
from shards.clouds import Cloud
from shards.errors import CodecError

_SPLITS = ("train", "test", "val", "validation")
_TABLES = (".npy", ".txt", ".csv")
_MESHES = (".off", ".obj", ".glb", ".gltf", ".wrl", ".stl")
_SUFFIXES = (*_TABLES, ".ply", ".pcd", *_MESHES)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file, and what its folders say of it."""

    path: Path
    split: str
    label: str


def open_folder(folder: Path, num_points: int, up: Up = "") -> CloudSource:
    """Open a folder.

    Args:
        folder: DIR.
        num_points: drawn of each mesh; files of points keep all of theirs.
        up: axis of the files that is up; "" is y.

    Raises:
        MissingDataError: it is not there, or holds no file of a known kind in such folders.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: no such folder; --from must name the one that holds it")
    found = sorted(_find(folder), key=lambda each: (each.split, each.label, each.path.name))
    if not found:
        raise MissingDataError(
            f"{folder}: no CLASS/SPLIT/FILE or SPLIT/CLASS/FILE in it, with a split of "
            f"{', '.join(_SPLITS)} and a file of {', '.join(_SUFFIXES)}"
        )
    names = tuple(sorted({each.label for each in found}))

    def read() -> Iterator[Cloud]:
        for each in found:
            cloud = _read(each, num_points)
            yield _stood_up(cloud) if up == "z" else cloud

    others = Counter(
        path.suffix or path.name
        for path in folder.glob("*/*/*")
        if path.is_file() and path.suffix.lower() not in _SUFFIXES
    )
    info = DatasetInfo(f"folder:{folder.name}", names)
    return CloudSource(info, {}, read, left_out=others)


def _stood_up(cloud: Cloud) -> Cloud:
    """Turn a cloud whose z is up."""
    normals = z_up_to_y_up(cloud.normals) if len(cloud.normals) else cloud.normals
    return replace(cloud, points=z_up_to_y_up(cloud.points), normals=normals)


def _find(folder: Path) -> Iterator[_Found]:
    """Give the files two folders down, of which one names a split."""
    for path in folder.glob("*/*/*"):
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        outer, inner = path.parent.parent.name, path.parent.name
        if (outer in _SPLITS) == (inner in _SPLITS):
            raise BrokenDataError(
                f"{path}: exactly one of its two folders must name a split ({', '.join(_SPLITS)}); "
                "the other names the class"
            )
        split, label = (outer, inner) if outer in _SPLITS else (inner, outer)
        yield _Found(path, split, label)


def _read(found: _Found, num_points: int) -> Cloud:
    """Read a file by its suffix; errors name it."""
    path, source_id = found.path, f"{found.split}/{found.label}/{found.path.name}"
    match path.suffix.lower():
        case suffix if suffix in _TABLES:
            rows = _read_npy(path) if suffix == ".npy" else read_table(path, 3)
            normals = rows[:, 3:6] if rows.shape[1] >= 6 else rows[:0, :3]
        case ".pcd":
            rows, normals = _read_pcd(path), np.zeros((0, 3), np.float32)
        case ".ply":
            return _read_ply(path, source_id, found.label, num_points)
        case _:
            return _read_mesh(path, source_id, found.label, num_points)
    points = np.ascontiguousarray(rows[:, :3], dtype=np.float32)
    return Cloud(source_id, found.label, points, np.ascontiguousarray(normals, dtype=np.float32))


def _read_npy(path: Path) -> np.ndarray:
    """Read a table of numbers; nothing is unpickled."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, CodecError) as error:
        first = str(error).splitlines()[0]
        raise BrokenDataError(f"{path}: no array of numbers ({first}); write it again") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] < 3:
        shape = getattr(rows, "shape", "several arrays")
        raise BrokenDataError(f"{path}: {shape}; rows of x y z are needed")
    if rows.dtype.kind not in "fiu":
        raise BrokenDataError(f"{path}: {rows.dtype}; numbers are needed")
    return rows.astype(np.float32)


def _read_pcd(path: Path) -> np.ndarray:
    try:
        return PointCloud.from_path(path).numpy(("x", "y", "z"))
    except Exception as error:  # what a reader of others raises of broken files has many types
        first = str(error).strip().splitlines()[0:1]
        raise BrokenDataError(f"{path}: no PCD of x, y, z ({first}); write it again") from error


def _read_ply(path: Path, source_id: str, label: str, num_points: int) -> Cloud:
    try:
        loaded = trimesh.load(path, process=False)
    except Exception as error:  # what a reader of others raises of broken files has many types
        raise BrokenDataError(f"{path}: no PLY ({error}); write it again") from error
    faces = getattr(loaded, "faces", None)
    vertices = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), dtype=np.float32)
    if vertices.ndim != 2 or len(vertices) == 0:
        raise BrokenDataError(f"{path}: no points; leave it out")
    if faces is not None and len(faces):
        triangles = np.asarray(faces, dtype=np.int32)
        return _sampled(path, source_id, label, vertices, triangles, num_points)
    return Cloud(source_id, label, np.ascontiguousarray(vertices[:, :3]))


def _read_mesh(path: Path, source_id: str, label: str, num_points: int) -> Cloud:
    try:
        mesh = read_mesh_file(path, MeshLimits())
    except MeshError as error:
        raise BrokenDataError(f"{path}: {error}; mend it or leave it out") from error
    return _sampled(path, source_id, label, mesh.vertices, mesh.faces, num_points)


def _sampled(
    path: Path,
    source_id: str,
    label: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    num_points: int,
) -> Cloud:
    """Draw points of a surface; which ones is decided by the source id alone."""
    seed = int.from_bytes(hashlib.sha256(source_id.encode()).digest()[:8])
    try:
        surface = sample_surface(vertices, faces, num_points, seed)
    except ValueError as error:
        raise BrokenDataError(f"{path}: {error}") from error
    return Cloud(source_id, label, surface.points)
