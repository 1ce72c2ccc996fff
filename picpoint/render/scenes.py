"""Which triangles lie in a glTF, PLY or STL file? trimesh's parsers, their findings in one form.

The parsers are called below the level of trimesh's scenes and meshes, which would merge, cache and
recompute. What a glTF file names (buffers, pictures) they get from the caller's companions and from
nowhere else. They are asked only when the file's own counts agree with its length: of some that do
not, they would give an empty mesh.
"""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from trimesh.exchange.gltf import load_glb, load_gltf
from trimesh.exchange.ply import load_ply
from trimesh.exchange.stl import load_stl
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from picpoint.render.meshes import MeshError
from picpoint.render.parts import Part

# What is wrong with a file is told by an error or a warning of ours, once.
logging.getLogger("trimesh").setLevel(logging.CRITICAL)

_GLB_HEADER_BYTES = 20
_STL_HEADER_BYTES, _STL_FACE_BYTES = 84, 50
_PLY_ELEMENT = re.compile(rb"^element[ \t]+(\w+)[ \t]+(\d{1,18})[ \t\r]*$", re.MULTILINE)
# Ways of packing geometry that trimesh does not unpack.
_PACKED = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}


def load_parts(
    content: bytes, suffix: str, max_faces: int, companions: Callable[[str], bytes | None]
) -> list[Part]:
    """Find the triangles of a file.

    Args:
        content: the whole file.
        suffix: `.glb`, `.gltf`, `.ply` or `.stl`.
        max_faces: a file that says it holds more, or repeats its parts beyond it, is not unpacked.
        companions: finds a file that a glTF file names; None if there is none.

    Raises:
        MeshError: `too_large`.
        Exception: anything that trimesh raises on a broken file.
    """
    match suffix:
        case ".glb":
            header = _glb_header(content)
            with_texture = _check_gltf(header, max_faces)
            named = _Named(companions)
            scene = load_glb(io.BytesIO(_with_header(content, header)), resolver=named)
            return list(_gltf_parts(scene, with_texture, max_faces))
        case ".gltf":
            header = json.loads(content)
            with_texture = _check_gltf(header, max_faces)
            file = io.BytesIO(json.dumps(header).encode())
            scene = load_gltf(file, resolver=_Named(companions))
            return list(_gltf_parts(scene, with_texture, max_faces))
        case ".ply":
            _check_ply(content)
            return [_plain_part(loaded) for loaded in _meshes(load_ply(io.BytesIO(content)))]
        case _:
            _check_stl(content)
            return [_plain_part(loaded) for loaded in _meshes(load_stl(io.BytesIO(content)))]


class _Named(dict[str, bytes]):
    """The files that a glTF file names, as the mapping that trimesh asks."""

    def __init__(self, companions: Callable[[str], bytes | None]) -> None:
        super().__init__()
        self.companions = companions

    def __missing__(self, name: str) -> bytes:
        found = self.companions(unquote(name))
        if found is None:
            raise KeyError(f"{name} is not there")
        return found


def _check_stl(content: bytes) -> None:
    """See that an STL file holds what it says, binary or text."""
    count = int.from_bytes(content[80:84], "little")
    is_binary = len(content) == _STL_HEADER_BYTES + count * _STL_FACE_BYTES
    if not is_binary and content.lstrip()[:5].lower() == b"solid" and b"facet" in content[:2048]:
        if b"endsolid" not in content[content.rfind(b"endfacet") :]:
            raise ValueError("ends before its 'endsolid'")
    elif not is_binary:
        raise ValueError(
            f"{len(content)} bytes, but its header says {count} triangles, which take "
            f"{_STL_HEADER_BYTES + count * _STL_FACE_BYTES}"
        )


def _check_ply(content: bytes) -> None:
    """See that a PLY file can be as long as it says, before arrays are made for it."""
    header = content[: content.find(b"end_header")]
    for name, digits in _PLY_ELEMENT.findall(header):
        count = int(digits)
        if count > len(content):
            raise ValueError(f"{len(content)} bytes cannot hold {count} of {name.decode()}")


def _meshes(loaded: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what has faces of a parser's answer: one mesh, several by name, or none."""
    for mesh in loaded["geometry"].values() if "geometry" in loaded else [loaded]:
        if mesh.get("faces") is not None and len(mesh["faces"]) > 0:
            yield mesh


def _plain_part(mesh: Mapping[str, Any]) -> Part:
    visual = mesh.get("visual")
    return Part(
        vertices=np.asarray(mesh["vertices"], dtype=np.float64),
        faces=_triangles(mesh["faces"]),
        normals=_rows(mesh.get("vertex_normals"), 3),
        uv=_rows(visual.uv, 2) if isinstance(visual, TextureVisuals) else None,
        vertex_colors=_byte_colors(mesh.get("vertex_colors")),
        face_colors=_byte_colors(mesh.get("face_colors")),
        warnings=("missing_texture",) if isinstance(visual, TextureVisuals) else (),
    )


def _gltf_parts(
    loaded: Mapping[str, Any], with_texture: set[str], max_faces: int
) -> Iterator[Part]:
    """Yield every mesh of a glTF scene as often as its nodes place it."""
    to_world = {loaded["base_frame"]: np.eye(4)}
    num_faces = 0
    for edge in loaded["graph"]:
        # Parents come before their children.
        placed = to_world[edge["frame_from"]] @ edge.get("matrix", np.eye(4))
        to_world[edge["frame_to"]] = placed
        mesh = loaded["geometry"].get(edge.get("geometry"))
        if mesh is None or mesh.get("faces") is None:
            continue
        num_faces += len(mesh["faces"])
        if num_faces > max_faces:
            raise MeshError("too_large", f"more than {max_faces} faces, as the scene repeats them")
        yield _place(_gltf_part(mesh, with_texture), placed)


def _gltf_part(mesh: Mapping[str, Any], with_texture: set[str]) -> Part:
    visual = mesh.get("visual")
    material, uv, colors = None, None, mesh.get("vertex_colors")
    if isinstance(visual, TextureVisuals):
        material, uv = visual.material, visual.uv
        colors = visual.vertex_attributes.get("color")
    colors = _byte_colors(colors)
    diffuse, texture, is_texture_missing = None, None, False
    if isinstance(material, PBRMaterial):
        factor = material.baseColorFactor  # bytes, linear
        linear = np.ones(3) if factor is None else np.asarray(factor, dtype=np.float64)[:3] / 255
        red, green, blue = _srgb(linear).round(6).tolist()
        diffuse, texture = (red, green, blue), material.baseColorTexture
        is_texture_missing = texture is None and material.name in with_texture
    return Part(
        vertices=np.asarray(mesh["vertices"], dtype=np.float64),
        faces=_triangles(mesh["faces"]),
        normals=_rows(mesh.get("vertex_normals"), 3),
        uv=_rows(uv, 2),
        vertex_colors=None if colors is None else _SRGB_OF_BYTE[colors],
        diffuse=diffuse,
        texture=texture,
        warnings=("missing_texture",) if is_texture_missing else (),
    )


def _place(part: Part, to_world: Float64[np.ndarray, "4 4"]) -> Part:
    """Move a part; a mirroring move turns its faces, so that their fronts stay fronts."""
    linear, shift = to_world[:3, :3], to_world[:3, 3]
    determinant = np.linalg.det(linear)
    normals = part.normals
    if normals is not None:
        # The inverse transpose, up to a positive factor, and defined for a flattening move too.
        cofactors = np.cross(linear[[1, 2, 0]], linear[[2, 0, 1]])
        normals = normals @ (cofactors * (1.0 if determinant >= 0 else -1.0)).T
    return Part(
        vertices=part.vertices @ linear.T + shift,
        faces=part.faces if determinant >= 0 else np.ascontiguousarray(part.faces[:, ::-1]),
        normals=normals,
        uv=part.uv,
        vertex_colors=part.vertex_colors,
        face_colors=part.face_colors,
        diffuse=part.diffuse,
        texture=part.texture,
        warnings=part.warnings,
    )


def _glb_header(content: bytes) -> dict[str, Any]:
    """Read the JSON chunk of a GLB file."""
    num_bytes = int.from_bytes(content[12:16], "little")
    return json.loads(content[_GLB_HEADER_BYTES : _GLB_HEADER_BYTES + num_bytes])


def _check_gltf(header: dict[str, Any], max_faces: int) -> set[str]:
    """Refuse arrays far longer than the faces may need, and packed ones, which are not read.

    Returns:
        Names of the materials that have a texture; every material is named by its number.
    """
    if packed := _PACKED & {*header.get("extensionsRequired", [])}:
        raise ValueError(f"packed by {', '.join(sorted(packed))}; unpack it first")
    most = max((int(accessor["count"]) for accessor in header.get("accessors", [])), default=0)
    total = sum(int(accessor["count"]) for accessor in header.get("accessors", []))
    if most > 3 * max_faces or total > 24 * max_faces:
        raise MeshError("too_large", f"arrays of {total} entries, for at most {max_faces} faces")
    return _number_materials(header)


def _number_materials(header: dict[str, Any]) -> set[str]:
    """Rename the materials to their numbers and give those that have a base colour texture.

    trimesh passes over a texture that it cannot open, and keeps of a material only the name.
    """
    with_texture: set[str] = set()
    for number, material in enumerate(header.get("materials", [])):
        material["name"] = str(number)
        if "baseColorTexture" in material.get("pbrMetallicRoughness", {}):
            with_texture.add(str(number))
    return with_texture


def _with_header(content: bytes, header: dict[str, Any]) -> bytes:
    """Put another JSON chunk into a GLB file."""
    old_bytes = int.from_bytes(content[12:16], "little")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    lengths = [len(content) - old_bytes + len(text), len(text)]
    packed = [length.to_bytes(4, "little") for length in lengths]
    head = content[:8] + packed[0] + packed[1] + content[16:_GLB_HEADER_BYTES]
    return head + text + content[_GLB_HEADER_BYTES + old_bytes :]


def _triangles(faces: Any) -> Int64[np.ndarray, "m 3"]:  # noqa: ANN401
    faces = np.asarray(faces).astype(np.int64)
    if faces.ndim == 2 and faces.shape[1] == 4:
        faces = faces[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces of shape {faces.shape} are no triangles")
    return np.ascontiguousarray(faces)


def _rows(values: Any, width: int) -> Float64[np.ndarray, "n width"] | None:  # noqa: ANN401
    """Read vertex values that a file may lack."""
    if values is None:
        return None
    return np.ascontiguousarray(np.asarray(values, dtype=np.float64).reshape(-1, width))


def _byte_colors(colors: Any) -> UInt8[np.ndarray, "n 3"] | None:  # noqa: ANN401
    """Read colours given as floats, 0..1, or as integers, with or without alpha."""
    if colors is None:
        return None
    colors = np.asarray(colors)[:, :3]
    if colors.dtype.kind == "f":
        return np.rint(255 * np.nan_to_num(colors).clip(0, 1)).astype(np.uint8)
    return (colors // (np.iinfo(colors.dtype).max // 255)).astype(np.uint8)


def _srgb(linear: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Encode linear light, 0..1, as sRGB."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_SRGB_OF_BYTE = np.rint(255 * _srgb(np.arange(256) / 255)).astype(np.uint8)
