"""What does a Wavefront OBJ file say? Its bytes as arrays, its material library as records.

Nothing is judged here beyond what makes the file unreadable; picpoint/render/meshes.py does that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from picpoint.render.meshes import MeshError
from picpoint.render.polygons import triangulate
from picpoint.render.scanner import (
    MTLLIB,
    USEMTL,
    as_text,
    count_obj,
    fill_obj,
    line_at,
)

# Options of `map_Kd` that stand before the file name, and the most values that each takes.
_MAP_OPTIONS = {
    b"-blendu": 1, b"-blendv": 1, b"-boost": 1, b"-cc": 1, b"-clamp": 1, b"-bm": 1, b"-imfchan": 1,
    b"-mm": 2, b"-o": 3, b"-s": 3, b"-t": 3, b"-texres": 1, b"-type": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjFile:
    """An OBJ file, its polygons cut into triangles.

    Attributes:
        positions: `v`, the first three numbers.
        position_colors: the three numbers after them, 0..255, if every `v` has them.
        texture_coordinates: `vt`, the first two numbers.
        normals: `vn`.
        corner_position: row of `positions` per triangle corner.
        corner_texture: row of `texture_coordinates` per triangle corner, or -1.
        corner_normal: row of `normals` per triangle corner, or -1.
        face_material: row of `materials` per triangle.
        materials: names as `usemtl` gives them; "" for faces before the first one.
        libraries: names after `mtllib`.
    """

    positions: Float64[np.ndarray, "n 3"]
    position_colors: UInt8[np.ndarray, "n 3"] | None
    texture_coordinates: Float64[np.ndarray, "t 2"]
    normals: Float64[np.ndarray, "k 3"]
    corner_position: Int32[np.ndarray, "m 3"]
    corner_texture: Int32[np.ndarray, "m 3"]
    corner_normal: Int32[np.ndarray, "m 3"]
    face_material: Int32[np.ndarray, " m"]
    materials: tuple[str, ...]
    libraries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MtlMaterial:
    """One material of an MTL file.

    Attributes:
        diffuse: `Kd`, sRGB, 0..1.
        texture_name: file named by `map_Kd`, or "".
    """

    diffuse: tuple[float, float, float] = (0.8, 0.8, 0.8)
    texture_name: str = ""


def parse_obj(content: bytes, max_faces: int) -> ObjFile:
    """Parse an OBJ file.

    Lines, points, curves, groups and smoothing groups are passed over.

    Args:
        content: the whole file.
        max_faces: a file with more, or with more than three times as many positions, texture
            coordinates, normals or face corners, is refused before arrays are made for it.

    Raises:
        ValueError: a number or an index is missing, broken or out of range.
        MeshError: `too_large`.
    """
    content = _join_continued(content)
    text = as_text(content)
    counts = np.zeros(7, np.int64)
    count_obj(text, counts)
    num_v, num_vt, num_vn, num_faces, num_corners, num_names, num_words = counts.tolist()
    if num_faces > max_faces or max(num_v, num_vt, num_vn, num_corners) > 3 * max_faces:
        raise MeshError(
            "too_large",
            f"{num_faces} faces with {num_corners} corners over {num_v} positions, for at most "
            f"{max_faces} faces",
        )
    positions = np.empty((num_v, 3))
    colors = np.empty((num_v if num_words >= 6 else 0, 3))
    texture_coordinates, normals = np.empty((num_vt, 2)), np.empty((num_vn, 3))
    corners = np.empty((3, num_corners), np.int32)
    sizes, names = np.empty(num_faces, np.int64), np.empty((num_names, 4), np.int64)
    place = fill_obj(text, positions, colors, texture_coordinates, normals, corners, sizes, names)
    if place >= 0:
        raise ValueError(f"{line_at(content, place)} cannot be read, or names what is not there")
    triangles = triangulate(positions, corners[0], sizes)
    material_of_face, materials = _materials(content, names, num_faces)
    return ObjFile(
        positions=positions,
        position_colors=_byte_colors(colors),
        texture_coordinates=texture_coordinates,
        normals=normals,
        corner_position=corners[0][triangles.rows],
        corner_texture=corners[1][triangles.rows],
        corner_normal=corners[2][triangles.rows],
        face_material=material_of_face[triangles.polygon],
        materials=materials,
        libraries=tuple(_name(content, row) for row in names[names[:, 0] == MTLLIB].tolist()),
    )


def parse_mtl(content: bytes) -> dict[str, MtlMaterial]:
    """Parse a material library; what cannot be read of a material keeps its default."""
    materials: dict[str, MtlMaterial] = {}
    name = ""
    for keyword, rest in _statements(content):
        current = materials.get(name, MtlMaterial())
        match keyword.lower():
            case b"newmtl":
                name = _text(rest)
                materials[name] = MtlMaterial()
            case b"kd":
                diffuse = _diffuse(rest) or current.diffuse
                materials[name] = MtlMaterial(diffuse, current.texture_name)
            case b"map_kd":
                materials[name] = MtlMaterial(current.diffuse, _map_file(rest))
            case _:
                pass
    return materials


def _statements(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keyword and rest of each line, continued lines joined, comments and blanks left out."""
    for line in _join_continued(content).splitlines():
        keyword, _, rest = line.strip().replace(b"\t", b" ").partition(b" ")
        if keyword and not keyword.startswith(b"#"):
            yield keyword, rest


def _text(rest: bytes) -> str:
    return rest.strip().decode("utf-8", errors="replace")


def _join_continued(content: bytes) -> bytes:
    """Join lines that end with a backslash to the next."""
    if b"\\" in content:
        content = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    return content


def _name(content: bytes, row: list[int]) -> str:
    _, begin, end, _ = row
    return _text(content[begin:end])


def _materials(
    content: bytes, names: Int64[np.ndarray, "q 4"], num_faces: int
) -> tuple[Int32[np.ndarray, " faces"], tuple[str, ...]]:
    """Give the material of each face as a row of all that have faces or are named."""
    switches = names[names[:, 0] == USEMTL].tolist()
    first_faces = [row[3] for row in switches] + [num_faces]
    rows: dict[str, int] = {"": 0} if first_faces[0] > 0 else {}
    numbers = [0] + [rows.setdefault(_name(content, row), len(rows)) for row in switches]
    lengths = np.diff([0, *first_faces])
    return np.repeat(np.array(numbers, dtype=np.int32), lengths), tuple(rows)


def _byte_colors(colors: Float64[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"] | None:
    """Give the colours that some programs write after the position, if every position has one."""
    if len(colors) == 0 or not np.isfinite(colors).all():
        return None
    return np.rint(255 * colors.clip(0, 1)).astype(np.uint8)


def _diffuse(rest: bytes) -> tuple[float, float, float] | None:
    """Read `Kd r g b`, or `Kd r` for grey; None for what is not three finite numbers."""
    try:
        values = np.array(rest.split()[:3], dtype=np.float64)
    except ValueError:
        return None
    if len(values) not in (1, 3) or not np.isfinite(values).all():
        return None
    red, green, blue = np.broadcast_to(values.clip(0, 1), 3).tolist()
    return red, green, blue


def _map_file(rest: bytes) -> str:
    """Find the file name after the options of a map; it may hold spaces."""
    words = rest.split()
    while words and (most := _MAP_OPTIONS.get(words[0].lower())) is not None:
        taken = 1
        # The first value belongs to the option whatever it is, further ones only if numbers.
        while taken < len(words) - 1 and taken <= most and (taken == 1 or _is_number(words[taken])):
            taken += 1
        words = words[taken:]
    return b" ".join(words).decode("utf-8", errors="replace")


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
