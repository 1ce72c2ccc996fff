"""What do the parsers of scenes and of VRML give? Triangles by material, not a mesh yet."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image


@dataclass(frozen=True, slots=True)
class Part:
    """Triangles of one material, in the frame of the whole file.

    Attributes:
        normals: per vertex, of any length.
        uv: per vertex, origin at the bottom left.
        vertex_colors: sRGB.
        face_colors: sRGB.
        diffuse: sRGB, 0..1, or None where the file names no material.
        texture: a picture not decoded yet.
        warnings: what was passed over, as reason codes.
    """

    vertices: Float64[np.ndarray, "n 3"]
    faces: Int64[np.ndarray, "m 3"]
    normals: Float64[np.ndarray, "n 3"] | None = None
    uv: Float64[np.ndarray, "n 2"] | None = None
    vertex_colors: UInt8[np.ndarray, "n 3"] | None = None
    face_colors: UInt8[np.ndarray, "m 3"] | None = None
    diffuse: tuple[float, float, float] | None = None
    texture: Image.Image | None = None
    warnings: tuple[str, ...] = ()
