"""What is a mesh, and when is it fit to be rendered? The type of the renderers, and its mending."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from picpoint.geometry.clouds import face_areas
from picpoint.render.normals import crease_normals, face_normals

# A face as flat as this, as a share of the largest coordinate, is a rounding error of float32.
_MIN_HEIGHT = 2e-7
# A file whose normals fail on more corners than this is not believed on the others either.
_MAX_WRONG_NORMALS = 0.1
# A corner normal this far from its face's plane, as a cosine, is believed.
_MIN_AGREEMENT = 0.1
# Apart from the white of the background when it is fully lit, and far from black when it is not.
_GREY = (0.8, 0.8, 0.8)

# A rotation in a catalogue is rounded; beyond this it would stretch the shape visibly.
_MAX_SKEW = 1e-2


@dataclass(frozen=True, slots=True)
class Material:
    """How a face looks.

    Attributes:
        diffuse: sRGB, 0..1; multiplies the texture where there is one.
        texture: sRGB picture, row 0 on top, or None.
    """

    diffuse: tuple[float, float, float]
    texture: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles with materials; every array is C-contiguous.

    Attributes:
        vertices: positions, y up, in the file's own units until normalised.
        faces: vertex indices; counter-clockwise seen from the front.
        face_material: index into `materials`.
        uv: texture coordinates per face corner, origin at the bottom left, wrapping; zeros where
            the file has none.
        corner_normals: unit normals per face corner, or None for flat shading.
        vertex_colors: sRGB per vertex, multiplies the material's colour, or None.
        warnings: what was wrong and mended, as reason codes.
    """

    vertices: Float32[np.ndarray, "n 3"]
    faces: Int32[np.ndarray, "m 3"]
    face_material: Int32[np.ndarray, " m"]
    materials: tuple[Material, ...]
    uv: Float32[np.ndarray, "m 3 2"]
    corner_normals: Float32[np.ndarray, "m 3 3"] | None = None
    vertex_colors: UInt8[np.ndarray, "n 3"] | None = None
    warnings: tuple[str, ...] = ()


class MeshError(ValueError):
    """A mesh that cannot be rendered.

    Attributes:
        reason: code for the rejects table, such as `no_faces`, `not_finite`, `too_large`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        # Names in a file may hold halves of surrogate pairs, which no table and no terminal takes.
        super().__init__(reason, detail.encode(errors="backslashreplace").decode())
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(self.args)


def in_grey(mesh: Mesh) -> Mesh:
    """Give the same surface in one light grey, without textures and colours."""
    return replace(
        mesh,
        materials=(Material(_GREY),),
        face_material=np.zeros_like(mesh.face_material),
        vertex_colors=None,
    )


def mend(mesh: Mesh) -> Mesh:
    """Drop what cannot be drawn of a mesh, and see that its corners have normals.

    Faces go that use a vertex which is not finite, or that have no area; then vertices that no face
    uses. Normals that the mesh has are kept if they make sense, on the side that the winding calls
    the front; otherwise smooth ones are computed.

    Raises:
        MeshError: `no_faces`, `not_finite` or `degenerate`: nothing is left.
    """
    if len(mesh.faces) == 0:
        raise MeshError("no_faces", f"{len(mesh.vertices)} vertices and no triangle")
    is_finite = np.asarray(np.isfinite(mesh.vertices[mesh.faces]).all(axis=(1, 2)))
    if not is_finite.any():
        raise MeshError("not_finite", "every face uses a vertex that is not a finite number")
    if not is_finite.all():
        mesh = _with_warning(_keep_faces(mesh, is_finite), "non_finite_faces")
    has_area = _has_area(mesh)
    if not has_area.any():
        raise MeshError("degenerate", f"none of {len(mesh.faces)} faces has an area")
    if not has_area.all():
        mesh = _with_warning(_keep_faces(mesh, has_area), "zero_area_faces")
    mesh = _drop_unused_vertices(mesh)
    if not np.isfinite(mesh.uv).all():
        finite_uv = np.nan_to_num(mesh.uv, nan=0.0, posinf=0.0, neginf=0.0)
        mesh = _with_warning(replace(mesh, uv=finite_uv), "non_finite_uv")
    return replace(mesh, corner_normals=_trusted_normals(mesh))


def turn(mesh: Mesh, rotation: tuple[float, ...]) -> Mesh:
    """Turn a mesh; a rotation that mirrors turns its faces too, so that their fronts stay fronts.

    Args:
        mesh: in any frame.
        rotation: nine numbers, row by row.

    Raises:
        MeshError: `unreadable`: the numbers are no rotation.
    """
    matrix = np.array(rotation, dtype=np.float64).reshape(3, 3)
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=_MAX_SKEW):
        raise MeshError("unreadable", f"{rotation}: its catalogue's numbers are no rotation")
    order = slice(None, None, -1 if np.linalg.det(matrix) < 0 else 1)
    normals = mesh.corner_normals
    return replace(
        mesh,
        vertices=np.ascontiguousarray(mesh.vertices @ matrix.T, np.float32),
        faces=np.ascontiguousarray(mesh.faces[:, order]),
        uv=np.ascontiguousarray(mesh.uv[:, order]),
        corner_normals=None
        if normals is None
        else np.ascontiguousarray((normals @ matrix.T)[:, order], np.float32),
    )


def _has_area(mesh: Mesh) -> Bool[np.ndarray, " m"]:
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    longest_edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    areas = face_areas(corners)
    return (areas > 0) & (2 * areas > _MIN_HEIGHT * np.abs(corners).max() * longest_edge)


def _keep_faces(mesh: Mesh, keep: Bool[np.ndarray, " m"]) -> Mesh:
    normals = mesh.corner_normals
    return replace(
        mesh,
        faces=mesh.faces[keep],
        face_material=mesh.face_material[keep],
        uv=mesh.uv[keep],
        corner_normals=None if normals is None else normals[keep],
    )


def _drop_unused_vertices(mesh: Mesh) -> Mesh:
    is_used = np.zeros(len(mesh.vertices), dtype=bool)
    is_used[mesh.faces] = True
    if is_used.all():
        return mesh
    new_row = (np.cumsum(is_used) - 1).astype(np.int32)
    colors = mesh.vertex_colors
    return replace(
        mesh,
        vertices=mesh.vertices[is_used],
        faces=new_row[mesh.faces],
        vertex_colors=None if colors is None else colors[is_used],
    )


def _trusted_normals(mesh: Mesh) -> Float32[np.ndarray, "m 3 3"]:
    """Keep the mesh's normals if they make sense; compute smooth ones otherwise."""
    if mesh.corner_normals is None:
        return crease_normals(mesh.vertices, mesh.faces)
    flat = face_normals(mesh.vertices, mesh.faces)[:, None, :]
    normals = mesh.corner_normals.astype(np.float64)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    is_right = np.isfinite(length) & (length > 0)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=is_right)
    agreement: Float64[np.ndarray, "m 3 1"] = (normals * flat).sum(axis=2, keepdims=True)
    is_right &= np.abs(agreement) >= _MIN_AGREEMENT
    if (~is_right).mean() > _MAX_WRONG_NORMALS:
        return crease_normals(mesh.vertices, mesh.faces)
    facing = np.where(agreement < 0, -normals, normals)
    return np.where(is_right, facing, flat).astype(np.float32)


def _with_warning(mesh: Mesh, warning: str) -> Mesh:
    return replace(mesh, warnings=(*mesh.warnings, warning))
