"""How does a mesh look? Its faces, colours and textures as flat arrays for the kernels.

A texture is kept with its halvings, and each face reads the one whose texels are about as large as
the pixels of the picture: without that, a fine or often repeated texture turns into noise. The
choice is made once for all views, from the face's size and its distance to the origin's cameras.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from numba import njit
from PIL import Image

from picpoint.render.meshes import Mesh


class Look(NamedTuple):
    """How a mesh looks, as flat arrays for the kernels; what a mesh lacks has length 0.

    Attributes:
        faces: vertex indices.
        face_normals: unit normals by the right-hand rule; zeros where a face has no area.
        corner_normals: unit normals per face corner, for smooth shading.
        vertex_colors: sRGB per vertex.
        uv: texture coordinates per face corner, if any material has a texture.
        face_material: row of `diffuse`.
        face_texture: row of `textures`, or -1.
        diffuse: sRGB of each material, 0..1.
        textures: offset into `texels` (in bytes), height and width of each texture and halving.
        texels: the textures one after another, sRGB, rows from the top.
    """

    faces: Int32[np.ndarray, "m 3"]
    face_normals: Float32[np.ndarray, "m 3"]
    corner_normals: Float32[np.ndarray, "k 3 3"]
    vertex_colors: UInt8[np.ndarray, "j 3"]
    uv: Float32[np.ndarray, "l 3 2"]
    face_material: Int32[np.ndarray, " m"]
    face_texture: Int32[np.ndarray, " m"]
    diffuse: Float32[np.ndarray, "i 3"]
    textures: Int64[np.ndarray, "t 3"]
    texels: UInt8[np.ndarray, " b"]


def build_look(mesh: Mesh, px_per_unit: float) -> Look:
    """Flatten a mesh's appearance into arrays.

    Args:
        mesh: the mesh, already in the frame it is rendered in.
        px_per_unit: pixels of the picture per world unit, about; picks the halving of textures.
    """
    face_texture, textures, texels = _stack_textures(mesh, px_per_unit)
    no_normals = np.zeros((0, 3, 3), np.float32)
    no_colors = np.zeros((0, 3), np.uint8)
    return Look(
        faces=np.ascontiguousarray(mesh.faces),
        face_normals=_face_normals(mesh.vertices, mesh.faces),
        corner_normals=no_normals if mesh.corner_normals is None else mesh.corner_normals,
        vertex_colors=no_colors if mesh.vertex_colors is None else mesh.vertex_colors,
        uv=mesh.uv if len(textures) else np.zeros((0, 3, 2), np.float32),
        face_material=mesh.face_material,
        face_texture=face_texture,
        diffuse=np.array([material.diffuse for material in mesh.materials], np.float32),
        textures=textures,
        texels=texels,
    )


def _stack_textures(
    mesh: Mesh, px_per_unit: float
) -> tuple[Int32[np.ndarray, " m"], Int64[np.ndarray, "t 3"], UInt8[np.ndarray, " b"]]:
    """Lay the halvings that faces need one after another; give each face its row."""
    face_texture = np.full(len(mesh.faces), -1, np.int32)
    levels: list[UInt8[np.ndarray, "h w 3"]] = []
    for row, material in enumerate(mesh.materials):
        wearers = np.flatnonzero(mesh.face_material == row)
        if material.texture is None or not len(wearers):
            continue
        halvings = _halvings_wanted(mesh, wearers, material.texture, px_per_unit)
        face_texture[wearers] = len(levels) + halvings
        levels += _halve(material.texture, int(halvings.max()))
    sizes = np.array([level.shape[:2] for level in levels], np.int64).reshape(-1, 2)
    offsets = np.cumsum([0, *(level.size for level in levels)])[:-1]
    texels = np.concatenate([np.zeros(0, np.uint8), *(level.ravel() for level in levels)])
    return face_texture, np.column_stack([offsets.astype(np.int64), sizes]), texels


def _halvings_wanted(
    mesh: Mesh, wearers: Int64[np.ndarray, " w"], texture: UInt8[np.ndarray, "h w_ 3"], px: float
) -> Int32[np.ndarray, " w"]:
    """Say for each face how often its texture is halved for a texel to be about a pixel."""
    corners = mesh.vertices[mesh.faces[wearers]].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area_px = np.linalg.norm(normals, axis=1) * px**2
    first, second = np.moveaxis(mesh.uv[wearers, 1:] - mesh.uv[wearers, :1], 1, 0).astype(float)
    height, width = texture.shape[:2]
    area_texels = abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) * height * width
    texels_per_px = (area_texels + 1e-12) / (area_px + 1e-12)
    coarsest = int(math.log2(max(height, width)))
    return np.clip(np.rint(np.log2(texels_per_px) / 2), 0, coarsest).astype(np.int32)


def _halve(texture: UInt8[np.ndarray, "h w 3"], times: int) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Give a texture and its halvings, each the 2 x 2 means of the one before."""
    levels = [np.ascontiguousarray(texture)]
    for _ in range(times):
        height, width = levels[-1].shape[:2]
        factors = (min(2, width), min(2, height))
        levels.append(np.asarray(Image.fromarray(levels[-1]).reduce(factors)))
    return levels


@njit(nogil=True, cache=True)
@no_type_check
def _face_normals(
    vertices: Float32[np.ndarray, "n 3"], faces: Int32[np.ndarray, "m 3"]
) -> Float32[np.ndarray, "m 3"]:
    """Compute unit normals by the right-hand rule."""
    normals = np.zeros((len(faces), 3), np.float32)
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        e0 = np.float64(vertices[b, 0]) - vertices[a, 0]
        e1 = np.float64(vertices[b, 1]) - vertices[a, 1]
        e2 = np.float64(vertices[b, 2]) - vertices[a, 2]
        f0 = np.float64(vertices[c, 0]) - vertices[a, 0]
        f1 = np.float64(vertices[c, 1]) - vertices[a, 1]
        f2 = np.float64(vertices[c, 2]) - vertices[a, 2]
        x, y, z = e1 * f2 - e2 * f1, e2 * f0 - e0 * f2, e0 * f1 - e1 * f0
        length = math.sqrt(x * x + y * y + z * z)
        if length > 0:
            normals[face, 0], normals[face, 1], normals[face, 2] = (
                x / length,
                y / length,
                z / length,
            )
    return normals
