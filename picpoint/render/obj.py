"""What does a Wavefront OBJ file say? Its bytes as arrays, its material library as records.

Nothing is judged here beyond what makes the file unreadable; picpoint/render/meshes.py does that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from picpoint.render.polygons import triangulate

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
    corner_position: Int64[np.ndarray, "m 3"]
    corner_texture: Int64[np.ndarray, "m 3"]
    corner_normal: Int64[np.ndarray, "m 3"]
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


def parse_obj(content: bytes) -> ObjFile:
    """Parse an OBJ file.

    Lines, points, curves, groups and smoothing groups are passed over.

    Raises:
        ValueError: a number or an index is missing, broken or out of range.
    """
    positions: list[list[bytes]] = []
    texture_coordinates: list[list[bytes]] = []
    normals: list[list[bytes]] = []
    polygons: list[list[bytes]] = []
    # How many of each were there when a polygon was read: negative indices count back from here.
    counts: list[tuple[int, int, int]] = []
    polygon_material: list[int] = []
    materials: dict[str, int] = {}
    libraries: list[str] = []
    material = 0
    for keyword, rest in _statements(content):
        match keyword:
            case b"v":
                positions.append(rest.split())
            case b"vt":
                texture_coordinates.append(rest.split()[:2])
            case b"vn":
                normals.append(rest.split()[:3])
            case b"f":
                if not materials:
                    materials[""] = 0
                polygons.append(rest.split())
                counts.append((len(positions), len(texture_coordinates), len(normals)))
                polygon_material.append(material)
            case b"usemtl":
                material = materials.setdefault(_text(rest), len(materials))
            case b"mtllib":
                libraries.append(_text(rest))
            case _:
                pass
    sizes = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
    indices = _indices(
        polygons, np.repeat(np.array(counts, dtype=np.int64).reshape(-1, 3), sizes, axis=0)
    )
    _check_range(indices, (len(positions), len(texture_coordinates), len(normals)))
    xyz = _numbers([row[:3] for row in positions], 3)
    triangles = triangulate(xyz[indices[:, 0]], sizes)
    corners = indices[triangles.rows]
    return ObjFile(
        positions=xyz,
        position_colors=_colors(positions),
        texture_coordinates=_numbers([[*row, b"0"][:2] for row in texture_coordinates], 2),
        normals=_numbers(normals, 3),
        corner_position=np.ascontiguousarray(corners[:, :, 0]),
        corner_texture=np.ascontiguousarray(corners[:, :, 1]),
        corner_normal=np.ascontiguousarray(corners[:, :, 2]),
        face_material=np.array(polygon_material, dtype=np.int32)[triangles.polygon],
        materials=tuple(materials),
        libraries=tuple(libraries),
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
    if b"\\" in content:
        content = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    for line in content.splitlines():
        keyword, _, rest = line.strip().replace(b"\t", b" ").partition(b" ")
        if keyword and not keyword.startswith(b"#"):
            yield keyword, rest


def _text(rest: bytes) -> str:
    return rest.strip().decode("utf-8", errors="replace")


def _numbers(rows: list[list[bytes]], width: int) -> Float64[np.ndarray, "rows width"]:
    if any(len(row) != width for row in rows):
        raise ValueError(f"a coordinate has fewer than {width} numbers")
    return np.array(rows, dtype=np.float64).reshape(-1, width)


def _colors(positions: list[list[bytes]]) -> UInt8[np.ndarray, "n 3"] | None:
    """Read the colours that some programs write after the position."""
    if not positions or any(len(row) < 6 for row in positions):
        return None
    colors = _numbers([row[3:6] for row in positions], 3)
    if not np.isfinite(colors).all():
        return None
    return np.rint(255 * colors.clip(0, 1)).astype(np.uint8)


def _indices(
    polygons: list[list[bytes]], counts: Int64[np.ndarray, "c 3"]
) -> Int64[np.ndarray, "c 3"]:
    """Read the corners of all polygons as rows of v, vt and vn, from 0; -1 where there is none.

    Args:
        polygons: the words of each `f` line.
        counts: how many v, vt and vn stood above the line, per corner.
    """
    flat = [_corner(corner) for polygon in polygons for corner in polygon]
    # The file counts from 1, or backwards from -1; 0 stands for "none".
    numbers = np.array(flat, dtype=np.int64).reshape(-1, 3)
    return np.where(numbers < 0, counts + numbers, numbers - 1)


def _corner(corner: bytes) -> tuple[int, int, int]:
    """Read `position/texture/normal`, where the latter two may be missing."""
    parts = [int(part) if part else 0 for part in corner.split(b"/")]
    if len(parts) > 3 or parts[0] == 0:
        raise ValueError(f"a face corner says {corner!r}: indices count from 1 or from -1")
    return parts[0], parts[1] if len(parts) > 1 else 0, parts[2] if len(parts) > 2 else 0


def _check_range(indices: Int64[np.ndarray, "c 3"], counts: tuple[int, int, int]) -> None:
    # -1 stands for "none", also in a file that has no such list.
    is_wrong = (indices < np.array([0, -1, -1])) | (indices >= np.array(counts))
    if is_wrong.any():
        corner, which = np.argwhere(is_wrong)[0]
        raise ValueError(
            f"a face names {('v', 'vt', 'vn')[which]} {indices[corner, which] + 1}, "
            f"of {counts[which]} there are"
        )


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
