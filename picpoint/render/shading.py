"""What colour has a point of a surface, how is it lit, and what does a pixel show? Kernels.

Colour is vertex colour x diffuse colour x texture, the texture bilinear and wrapped. Light comes
from three sources, and both sides of a face are lit alike:

    ambient        0.30, everywhere
    head lamp      0.45 |n.v|, at the camera centre, so that every view is lit
    sky            0.20 (1 + n.y) / 2, so that the top of a thing differs from its sides

They add up to 0.95: a white shape stays apart from a white background. Colours are multiplied and
averaged as sRGB values, without linearising: cheaper, and these are pictures to learn from, not to
look at.
"""

import math
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from numba import njit

from picpoint.render.look import Look

_AMBIENT, _HEAD_LAMP, _SKY = 0.30, 0.45, 0.20

# These kernels allocate nothing. Without reference counts they run up to 5 times as fast: numba
# counts every array of a named tuple, atomically, at every use of it in a loop.
_KERNEL: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False}
# What they call is in this file, because a change in another would leave their cached code stale.
_INLINE: dict[str, Any] = {**_KERNEL, "inline": "always"}


def colors_at(
    look: Look, face_index: Int64[np.ndarray, " P"], barycentric: Float32[np.ndarray, "P 3"]
) -> UInt8[np.ndarray, "P 3"]:
    """Give the unlit sRGB colour of points on the surface.

    Args:
        look: how the mesh looks.
        face_index: face of each point.
        barycentric: weights of the face's corners, adding up to 1.
    """
    colors = np.empty((len(face_index), 3), np.uint8)
    _color_points(look, face_index, barycentric, colors)
    return colors


@njit(**_KERNEL)
@no_type_check
def shade(
    look: Look,
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
    face_id: Int32[np.ndarray, "fine fine"],
    subpixel: int,
    rays: Float64[np.ndarray, "3 3"],
    background: Float64[np.ndarray, "3"],
    colour: UInt8[np.ndarray, "S S 3"],
    coverage: Float32[np.ndarray, "S S"],
) -> None:
    """Colour the visible faces and average the fine raster down to the picture.

    Args:
        look: faces and their appearance.
        snapped: vertices on the fine raster, x right and y down, in 1/subpixel px.
        inverse_depth: 1/w of the vertices.
        face_id: visible face on the fine raster, -1 where nothing is.
        subpixel: units of `snapped` to a px of the fine raster.
        rays: maps (x, y, 1), in the units of `snapped`, to a world ray from the camera.
        background: sRGB, 0..1.
        colour: to be filled: sRGB picture.
        coverage: to be filled: covered share of each pixel of the picture.
    """
    empty = _to_byte(background[0]), _to_byte(background[1]), _to_byte(background[2])
    size = colour.shape[0]
    fine = face_id.shape[0] // size
    for row in range(size):
        for column in range(size):
            covered, one_face = _count_covered(face_id, row * fine, column * fine, fine)
            coverage[row, column] = covered / (fine * fine)
            if covered == 0:
                for channel in range(3):
                    colour[row, column, channel] = empty[channel]
                continue
            # Samples that all show one face are replaced by their middle, which lies on it.
            samples = 1 if one_face else fine
            pitch = fine * subpixel // samples
            red, green, blue = 0.0, 0.0, 0.0
            for i in range(samples):
                for j in range(samples):
                    face = face_id[row * fine + i, column * fine + j]
                    if face < 0:
                        color = (background[0], background[1], background[2])
                    else:
                        x = column * fine * subpixel + j * pitch + pitch // 2
                        y = row * fine * subpixel + i * pitch + pitch // 2
                        color = _lit_color(look, face, snapped, inverse_depth, x, y, rays)
                    red += color[0]
                    green += color[1]
                    blue += color[2]
            share = 1 / (samples * samples)
            colour[row, column, 0] = _to_byte(red * share)
            colour[row, column, 1] = _to_byte(green * share)
            colour[row, column, 2] = _to_byte(blue * share)


@njit(**_INLINE)
@no_type_check
def _count_covered(
    face_id: Int32[np.ndarray, "fine fine"], top: int, left: int, fine: int
) -> tuple[int, bool]:
    """Count a pixel's samples that show a face, and tell whether all show the same."""
    first = face_id[top, left]
    covered, one_face = 0, True
    for i in range(fine):
        for j in range(fine):
            face = face_id[top + i, left + j]
            covered += face >= 0
            one_face &= face == first
    return covered, one_face


@njit(**_INLINE)
@no_type_check
def _lit_color(
    look: Look,
    face: int,
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
    x: int,
    y: int,
    rays: Float64[np.ndarray, "3 3"],
) -> tuple[float, float, float]:
    """Give the colour, 0..1, that a face shows at (x, y), in the units of `snapped`."""
    b0, b1, b2 = 1.0, 0.0, 0.0
    if _is_interpolated(look, face):
        b0, b1, b2 = _barycentric(look, face, snapped, inverse_depth, x, y)
    ray = (
        rays[0, 0] * x + rays[0, 1] * y + rays[0, 2],
        rays[1, 0] * x + rays[1, 1] * y + rays[1, 2],
        rays[2, 0] * x + rays[2, 1] * y + rays[2, 2],
    )
    lit = _light(_surface_normal(look, face, b0, b1, b2), ray)
    color = _surface_color(look, face, b0, b1, b2)
    return lit * color[0], lit * color[1], lit * color[2]


@njit(**_INLINE)
@no_type_check
def _barycentric(
    look: Look,
    face: int,
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
    x: int,
    y: int,
) -> tuple[float, float, float]:
    """Give the perspective-correct weights of a face's corners at a place that it covers."""
    a = np.uint32(look.faces[face, 0])
    b = np.uint32(look.faces[face, 1])
    c = np.uint32(look.faces[face, 2])
    ax, ay = snapped[a, 0] - x, snapped[a, 1] - y
    bx, by = snapped[b, 0] - x, snapped[b, 1] - y
    cx, cy = snapped[c, 0] - x, snapped[c, 1] - y
    at_a = (bx * cy - by * cx) * np.float64(inverse_depth[a])
    at_b = (cx * ay - cy * ax) * np.float64(inverse_depth[b])
    at_c = (ax * by - ay * bx) * np.float64(inverse_depth[c])
    scale = 1 / (at_a + at_b + at_c)
    return at_a * scale, at_b * scale, at_c * scale


@njit(**_INLINE)
@no_type_check
def _to_byte(value: float) -> int:
    """Round a colour of 0..1 to 0..255."""
    return int(255 * min(max(value, 0.0), 1.0) + 0.5)


@njit(**_INLINE)
@no_type_check
def _is_interpolated(look: Look, face: int) -> bool:
    """Tell whether normal or colour differ between the points of a face."""
    smooth = (look.corner_normals.shape[0] > 0) | (look.vertex_colors.shape[0] > 0)
    return smooth | (look.face_texture[face] >= 0)


@njit(**_INLINE)
@no_type_check
def _surface_normal(
    look: Look, face: int, b0: float, b1: float, b2: float
) -> tuple[float, float, float]:
    """Give the unit normal at a point of a face, interpolated where corners have normals."""
    # Scalars, not rows: a view of a row costs more than the arithmetic.
    face = np.uint32(face)
    if look.corner_normals.shape[0] > 0:
        normals = look.corner_normals
        x = b0 * normals[face, 0, 0] + b1 * normals[face, 1, 0] + b2 * normals[face, 2, 0]
        y = b0 * normals[face, 0, 1] + b1 * normals[face, 1, 1] + b2 * normals[face, 2, 1]
        z = b0 * normals[face, 0, 2] + b1 * normals[face, 1, 2] + b2 * normals[face, 2, 2]
        length = math.sqrt(x * x + y * y + z * z)
        if length > 1e-6:
            return x / length, y / length, z / length
    normal = look.face_normals
    return np.float64(normal[face, 0]), np.float64(normal[face, 1]), np.float64(normal[face, 2])


@njit(**_INLINE)
@no_type_check
def _surface_color(
    look: Look, face: int, b0: float, b1: float, b2: float
) -> tuple[float, float, float]:
    """Give the unlit sRGB colour, 0..1, at a point of a face."""
    face = np.uint32(face)
    material = np.uint32(look.face_material[face])
    red = np.float64(look.diffuse[material, 0])
    green = np.float64(look.diffuse[material, 1])
    blue = np.float64(look.diffuse[material, 2])
    if look.vertex_colors.shape[0] > 0:
        colors = look.vertex_colors
        a, b, c = look.faces[face, 0], look.faces[face, 1], look.faces[face, 2]
        red *= (b0 * colors[a, 0] + b1 * colors[b, 0] + b2 * colors[c, 0]) / 255
        green *= (b0 * colors[a, 1] + b1 * colors[b, 1] + b2 * colors[c, 1]) / 255
        blue *= (b0 * colors[a, 2] + b1 * colors[b, 2] + b2 * colors[c, 2]) / 255
    texture = look.face_texture[face]
    if texture >= 0:
        uv = look.uv
        u = b0 * uv[face, 0, 0] + b1 * uv[face, 1, 0] + b2 * uv[face, 2, 0]
        v = b0 * uv[face, 0, 1] + b1 * uv[face, 1, 1] + b2 * uv[face, 2, 1]
        texel = _bilinear(look.texels, look.textures, np.uint32(texture), u, v)
        red, green, blue = red * texel[0], green * texel[1], blue * texel[2]
    return red, green, blue


@njit(**_INLINE)
@no_type_check
def _bilinear(
    texels: UInt8[np.ndarray, " b"],
    textures: Int64[np.ndarray, "t 3"],
    texture: int,
    u: float,
    v: float,
) -> tuple[float, float, float]:
    """Read a texture between its texels, wrapping; v points up, rows go down."""
    offset, height, width = textures[texture, 0], textures[texture, 1], textures[texture, 2]
    x = (u - math.floor(u)) * width - 0.5
    y = (1 - (v - math.floor(v))) * height - 0.5
    left, top = math.floor(x), math.floor(y)
    right_share, bottom_share = x - left, y - top
    x0, y0 = _wrapped(int(left), width), _wrapped(int(top), height)
    x1, y1 = _wrapped(x0 + 1, width), _wrapped(y0 + 1, height)
    upper, lower = offset + y0 * width * 3, offset + y1 * width * 3
    i, j, k, m = upper + x0 * 3, upper + x1 * 3, lower + x0 * 3, lower + x1 * 3
    a = (1 - right_share) * (1 - bottom_share) / 255
    b = right_share * (1 - bottom_share) / 255
    c = (1 - right_share) * bottom_share / 255
    d = right_share * bottom_share / 255
    return (
        a * texels[i] + b * texels[j] + c * texels[k] + d * texels[m],
        a * texels[i + 1] + b * texels[j + 1] + c * texels[k + 1] + d * texels[m + 1],
        a * texels[i + 2] + b * texels[j + 2] + c * texels[k + 2] + d * texels[m + 2],
    )


@njit(**_INLINE)
@no_type_check
def _wrapped(index: int, count: int) -> int:
    """Bring an index of -1..count into 0..count - 1."""
    if index < 0:
        return index + count
    return index - count if index >= count else index


@njit(**_INLINE)
@no_type_check
def _light(normal: tuple[float, float, float], ray: tuple[float, float, float]) -> float:
    """Give the light, 0..0.95, that falls on a surface.

    Args:
        normal: unit normal, either side.
        ray: from the camera to the surface, any length, world frame.
    """
    along = normal[0] * ray[0] + normal[1] * ray[1] + normal[2] * ray[2]
    head = abs(along) / math.sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2])
    towards_sky = normal[1] if along < 0 else -normal[1]
    return _AMBIENT + _HEAD_LAMP * head + _SKY * 0.5 * (1 + towards_sky)


@njit(**_KERNEL)
@no_type_check
def _color_points(
    look: Look,
    face_index: Int64[np.ndarray, " P"],
    barycentric: Float32[np.ndarray, "P 3"],
    colors: UInt8[np.ndarray, "P 3"],
) -> None:
    """Fill `colors` with the unlit colour of each point."""
    for point in range(len(face_index)):
        weights = barycentric[point]
        color = _surface_color(look, face_index[point], weights[0], weights[1], weights[2])
        for channel in range(3):
            colors[point, channel] = int(255 * min(max(color[channel], 0.0), 1.0) + 0.5)
