"""How does a file become a mesh? The formats, what a file may cost, and what goes wrong."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from PIL import Image

from picpoint.render.meshes import Material, Mesh, MeshError, mend
from picpoint.render.obj import MtlMaterial, ObjFile, parse_mtl, parse_obj
from picpoint.render.off import parse_off
from picpoint.render.parts import Part
from picpoint.render.textures import TextureError, TextureLimits, decode_texture
from picpoint.render.vrml import parse_vrml
from shards.errors import StoreError, TransientStoreError

SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl", ".wrl")

# Finds a file that a mesh names (material library, texture) by that name; None if there is none.
Companions = Callable[[str], bytes | None]

_FAULTS_OF_THE_DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE)

# sRGB of what has no colour of its own.
_GREY = (0.8, 0.8, 0.8)


@dataclass(frozen=True, slots=True)
class MeshLimits:
    """What a mesh may cost.

    Attributes:
        max_file_bytes: the unpacked file, and each of its companions.
        max_faces: triangles, after cutting polygons and repeating parts.
        texture: what one texture may cost.
    """

    max_file_bytes: int = 256 * 2**20
    max_faces: int = 4_000_000
    texture: TextureLimits = field(default_factory=TextureLimits)


DEFAULT_LIMITS = MeshLimits()


def read_mesh_file(
    path: Path, limits: MeshLimits = DEFAULT_LIMITS, root: Path | None = None
) -> Mesh:
    """Read a mesh from a folder, with its material libraries and textures.

    Args:
        path: the mesh.
        limits: what it may cost.
        root: nothing outside this folder is read for it; None for the mesh's own.

    Raises:
        MeshError: it cannot be rendered; `reason` says why.
        TransientStoreError: the disk failed in passing.
    """
    inside = (path.parent if root is None else root).resolve()

    def find(name: str) -> bytes | None:
        try:
            wanted = (path.parent / name).resolve()
            return read_bytes(wanted, limits) if wanted.is_relative_to(inside) else None
        except (MeshError, OSError, ValueError):  # names that no file can have
            return None

    return read_mesh(read_bytes(path, limits), path.name, find, limits)


def read_bytes(path: Path, limits: MeshLimits) -> bytes:
    """Read a file whole, if it is small enough.

    Raises:
        MeshError: `too_large`, or `unreadable`: it is not there, no plain file, or not ours.
        TransientStoreError: the disk or the network failed, which says nothing of the file.
    """
    try:
        if not path.is_file():
            raise MeshError("unreadable", f"{path.name}: not there, or no plain file")
        check_num_bytes(path.name, path.stat().st_size, limits)
        return path.read_bytes()
    except OSError as error:
        if error.errno in _FAULTS_OF_THE_DISK:
            raise TransientStoreError(f"{path}: {error.strerror}; check the disk") from error
        raise MeshError("unreadable", f"{path.name}: {error.strerror or error}") from error


def read_mesh(
    content: bytes,
    file_name: str,
    companions: Companions | None = None,
    limits: MeshLimits = DEFAULT_LIMITS,
) -> Mesh:
    """Read a mesh from the bytes of a file and mend it as far as possible.

    Args:
        content: the whole file.
        file_name: its suffix says the format; see `SUFFIXES`.
        companions: finds the files that it names; without, it has none.
        limits: what it may cost.

    Returns:
        Finite vertices, all of them used; faces with an area; `warnings` says what was mended.

    Raises:
        MeshError: it cannot be rendered; `reason` is `unreadable`, `too_large`, `no_faces`,
            `not_finite` or `degenerate`.
    """
    check_num_bytes(file_name, len(content), limits)
    suffix = PurePosixPath(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        raise MeshError("unreadable", f"{file_name}: not one of {', '.join(SUFFIXES)}")
    try:
        # Coordinates beyond float32 become infinite here; mending deals with them.
        with np.errstate(over="ignore", invalid="ignore"):
            mesh = _parse(content, suffix, companions or _find_nothing, limits)
    except (MeshError, MemoryError, StoreError):
        raise
    except Exception as error:  # Parsers of broken files raise anything.
        raise MeshError("unreadable", f"{file_name}: {type(error).__name__}: {error}") from error
    return mend(mesh)


def check_num_bytes(file_name: str, num_bytes: int, limits: MeshLimits) -> None:
    """Refuse a file by its size, before it is read or unpacked.

    Raises:
        MeshError: `too_large`.
    """
    if num_bytes > limits.max_file_bytes:
        raise MeshError("too_large", f"{file_name}: {num_bytes} > {limits.max_file_bytes} bytes")


def _find_nothing(name: str) -> bytes | None:
    return None


def _parse(content: bytes, suffix: str, companions: Companions, limits: MeshLimits) -> Mesh:
    """Read a mesh as the file has it, faces without area and all."""
    match suffix:
        case ".obj":
            parsed = parse_obj(content, limits.max_faces)
            mesh = _obj_mesh(parsed, companions, limits.texture)
        case ".off":
            vertices, faces = parse_off(content, limits.max_faces)
            mesh = _parts_mesh([Part(vertices=vertices, faces=faces)], limits.texture)
        case ".wrl":
            mesh = _parts_mesh([parse_vrml(content, limits.max_faces)], limits.texture)
        case _:
            # Here, because trimesh takes most of a second to load, and training never asks for it.
            from picpoint.render.scenes import load_parts

            parts = load_parts(
                content, suffix, limits.max_faces, lambda name: _find_companion(companions, name)
            )
            mesh = _parts_mesh(parts, limits.texture)
    if len(mesh.faces) > limits.max_faces:
        raise MeshError("too_large", f"{len(mesh.faces)} faces > {limits.max_faces}")
    return mesh


class _Looks:
    """The materials of a mesh as they are found, each kept once; textures are decoded once."""

    def __init__(self, limits: TextureLimits) -> None:
        self.limits = limits
        self.materials: list[Material] = []
        self.warnings: list[str] = []
        self._rows: dict[object, int] = {}
        self._textures: dict[object, UInt8[np.ndarray, "h w 3"] | None] = {}

    def row(self, diffuse: tuple[float, float, float], texture_key: object = None) -> int:
        """Give the row of a material, adding it where it is new."""
        key = (diffuse, texture_key)
        if key not in self._rows:
            self._rows[key] = len(self.materials)
            self.materials.append(Material(diffuse, self._textures.get(texture_key)))
        return self._rows[key]

    def has_texture(self, key: object, load: Callable[[], bytes | Image.Image | None]) -> bool:
        """Decode a texture the first time it is asked for; what goes wrong becomes a warning."""
        if key not in self._textures:
            source = load()
            try:
                if source is None:
                    raise TextureError("missing_texture", "the file is not there")
                self._textures[key] = decode_texture(source, self.limits)
            except TextureError as error:
                self._textures[key] = None
                self.warnings.append(error.warning)
        return self._textures[key] is not None


def _obj_mesh(obj: ObjFile, companions: Companions, limits: TextureLimits) -> Mesh:
    looks = _Looks(limits)
    library: dict[str, MtlMaterial] = {}
    for name in obj.libraries:
        library |= parse_mtl(_find_companion(companions, name) or b"")
    rows = [_obj_material(name, library, companions, looks) for name in obj.materials]
    return Mesh(
        vertices=obj.positions.astype(np.float32),
        faces=obj.corner_position.astype(np.int32),
        face_material=np.array(rows, dtype=np.int32)[obj.face_material],
        materials=tuple(looks.materials),
        uv=_take(obj.texture_coordinates, obj.corner_texture),
        corner_normals=_take(obj.normals, obj.corner_normal) if len(obj.normals) else None,
        vertex_colors=obj.position_colors,
        warnings=tuple(dict.fromkeys(looks.warnings)),
    )


def _obj_material(
    name: str, library: dict[str, MtlMaterial], companions: Companions, looks: _Looks
) -> int:
    """Add the material that `usemtl` names and give its row."""
    if name not in library:
        if name:
            looks.warnings.append("missing_material")
        return looks.row(_GREY)
    entry = library[name]
    texture_name = entry.texture_name
    if texture_name and looks.has_texture(
        texture_name, lambda: _find_companion(companions, texture_name)
    ):
        # A texture stands in for Kd, as in the programs that write such files: many of them leave
        # any colour there. The format's own description would multiply.
        return looks.row((1.0, 1.0, 1.0), texture_name)
    return looks.row(entry.diffuse)


def _take(rows: np.ndarray, index: np.ndarray) -> Float32[np.ndarray, "m 3 width"]:
    """Look up values of face corners; a corner without one (-1) gets zeros."""
    with_zeros = np.concatenate([rows, np.zeros((1, rows.shape[1]))])
    return with_zeros[index].astype(np.float32)


def _find_companion(companions: Companions, name: str) -> bytes | None:
    """Look for a file by the name given, then, for paths of another machine, by its last part."""
    name = name.replace("\\", "/").strip().strip('"')
    if not name or "\0" in name:
        return None
    found = companions(name)
    return found if found is not None or "/" not in name else companions(name.rsplit("/", 1)[1])


def _parts_mesh(parts: Sequence[Part], limits: TextureLimits) -> Mesh:
    """Join parts to one mesh."""
    if not parts:
        raise MeshError("no_faces", "the file holds no triangle")
    looks = _Looks(limits)
    first_vertex = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = [_checked_faces(part) + first for part, first in zip(parts, first_vertex, strict=False)]
    uv = [
        np.zeros((*part.faces.shape, 2)) if part.uv is None else part.uv[part.faces]
        for part in parts
    ]
    return Mesh(
        vertices=np.concatenate([part.vertices for part in parts]).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        face_material=np.concatenate([_part_materials(part, looks) for part in parts]),
        materials=tuple(looks.materials),
        uv=np.concatenate(uv).astype(np.float32),
        corner_normals=_join_normals(parts),
        vertex_colors=_join_vertex_colors(parts),
        warnings=tuple(dict.fromkeys(looks.warnings)),
    )


def _checked_faces(part: Part) -> Int64[np.ndarray, "m 3"]:
    if len(part.faces) and not 0 <= part.faces.min() <= part.faces.max() < len(part.vertices):
        raise ValueError(f"a face names a vertex outside 0..{len(part.vertices) - 1}")
    return part.faces


def _part_materials(part: Part, looks: _Looks) -> Int32[np.ndarray, " m"]:
    """Add the materials of a part and give the row of each face."""
    looks.warnings.extend(part.warnings)
    if part.face_colors is not None:
        colors, color_of_face = np.unique(part.face_colors, axis=0, return_inverse=True)
        rows = [looks.row((r / 255, g / 255, b / 255)) for r, g, b in colors.tolist()]
        return np.array(rows, dtype=np.int32)[color_of_face.ravel()]
    diffuse = part.diffuse
    if diffuse is None:
        diffuse = _GREY if part.vertex_colors is None else (1.0, 1.0, 1.0)
    key = None
    if part.texture is not None and looks.has_texture(id(part.texture), lambda: part.texture):
        key = id(part.texture)
    return np.full(len(part.faces), looks.row(diffuse, key), dtype=np.int32)


def _join_normals(parts: Sequence[Part]) -> Float32[np.ndarray, "m 3 3"] | None:
    """Join the normals; a part without gets zeros, which mending tells from real ones."""
    if all(part.normals is None for part in parts):
        return None
    corners = [
        np.zeros((*part.faces.shape, 3)) if part.normals is None else part.normals[part.faces]
        for part in parts
    ]
    return np.concatenate(corners).astype(np.float32)


def _join_vertex_colors(parts: Sequence[Part]) -> UInt8[np.ndarray, "n 3"] | None:
    """Join the vertex colours; a part without gets white, which changes nothing."""
    if all(part.vertex_colors is None for part in parts):
        return None
    colors = [
        np.full(part.vertices.shape, 255, dtype=np.uint8)
        if part.vertex_colors is None
        else part.vertex_colors
        for part in parts
    ]
    return np.concatenate(colors)
