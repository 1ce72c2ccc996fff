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
from typing import Any, NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from numba import njit

from picpoint.render.look import Look

AMBIENT, HEAD_LAMP, SKY = 0.30, 0.45, 0.20

# These kernels allocate nothing. Without reference counts they run up to 5 times as fast: numba
# counts every array of a named tuple, atomically, at every use of it in a loop.
_KERNEL: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False, "error_model": "numpy"}
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


class RowSamples(NamedTuple):
    """Room for what is shaded of one row of a picture; see `new_row_samples`.

    Attributes:
        column: the pixels that are not empty.
        first: first sample of each of them, and the number of samples at the end.
        face: face that a sample shows, -1 for the background.
        place: where the samples lie, x and y, in 1/subpixel px of the fine raster.
        normal: unit normals, one row a coordinate.
        color: sRGB, 0..1, one row a channel; unlit, then lit.
    """

    column: Int32[np.ndarray, " S"]
    first: Int32[np.ndarray, " S1"]
    face: Int32[np.ndarray, " k"]
    place: Float64[np.ndarray, "2 k"]
    normal: Float64[np.ndarray, "3 k"]
    color: Float64[np.ndarray, "3 k"]


def new_row_samples(size_px: int, supersampling: int) -> RowSamples:
    """Allocate room for the samples of a row of pixels."""
    # Where a pixel is empty the next one's samples are written over its own: room for one more.
    most = (size_px + 1) * supersampling**2
    return RowSamples(
        column=np.empty(size_px + 1, np.int32),
        first=np.empty(size_px + 1, np.int32),
        face=np.empty(most, np.int32),
        place=np.empty((2, most)),
        normal=np.empty((3, most)),
        color=np.empty((3, most)),
    )


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
    samples: RowSamples,
    colour: UInt8[np.ndarray, "S S3"],
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
        samples: room for the samples of a row.
        colour: to be filled: sRGB picture, the pixels of a row one after another.
        coverage: to be filled: covered share of each pixel of the picture.
    """
    fine = face_id.shape[0] // coverage.shape[0]
    empty = _to_byte(background[0]), _to_byte(background[1]), _to_byte(background[2])
    # A row goes through in steps, so that none waits for another: the lookups for the memory, the
    # light, which is computed for several samples at once, for square roots.
    for row in range(coverage.shape[0]):
        pixels = colour[row]
        for column in range(coverage.shape[1]):
            for channel in range(3):
                pixels[3 * column + channel] = empty[channel]
        # The usual rasters get code of their own, in which the compiler unrolls the loops.
        if fine == 1:
            count = _place_samples(face_id, row, 1, subpixel, samples, coverage[row])
        elif fine == 2:
            count = _place_samples(face_id, row, 2, subpixel, samples, coverage[row])
        else:
            count = _place_samples(face_id, row, fine, subpixel, samples, coverage[row])
        _look_up(look, snapped, inverse_depth, background, samples, samples.first[count])
        _light_up(rays, samples, samples.first[count])
        _average(samples, count, pixels)


@njit(**_INLINE)
@no_type_check
def _place_samples(
    face_id: Int32[np.ndarray, "fine fine"],
    row: int,
    fine: int,
    subpixel: int,
    samples: RowSamples,
    coverage: Float32[np.ndarray, " S"],
) -> int:
    """Choose where the pixels of a row are shaded; give the number of pixels that are not empty."""
    column_of, first, face_of = samples.column, samples.first, samples.face
    x_of, y_of = samples.place[0], samples.place[1]
    middle = fine * subpixel // 2
    pixels, count = 0, 0
    for column in range(len(coverage)):
        top, left = row * fine, column * fine
        face = face_id[np.uint32(top), np.uint32(left)]
        covered, one_face = 0, True
        for i in range(fine):
            for j in range(fine):
                other = face_id[np.uint32(top + i), np.uint32(left + j)]
                covered += other >= 0
                one_face &= other == face
        coverage[np.uint32(column)] = covered * (1 / (fine * fine))
        column_of[np.uint32(pixels)], first[np.uint32(pixels)] = column, count
        pixels += covered > 0
        if one_face:
            # Samples that all show one face are replaced by their middle, which lies on it.
            face_of[np.uint32(count)] = face
            x_of[np.uint32(count)] = np.int32(left * subpixel + middle)
            y_of[np.uint32(count)] = np.int32(top * subpixel + middle)
            count += face >= 0
            continue
        for i in range(fine):
            for j in range(fine):
                face_of[np.uint32(count)] = face_id[np.uint32(top + i), np.uint32(left + j)]
                x_of[np.uint32(count)] = np.int32((left + j) * subpixel + subpixel // 2)
                y_of[np.uint32(count)] = np.int32((top + i) * subpixel + subpixel // 2)
                count += 1
    first[pixels] = count
    return pixels


@njit(**_INLINE)
@no_type_check
def _look_up(
    look: Look,
    snapped: Int32[np.ndarray, "n 2"],
    inverse_depth: Float32[np.ndarray, " n"],
    background: Float64[np.ndarray, "3"],
    samples: RowSamples,
    count: int,
) -> None:
    """Fill in the normals and unlit colours of the samples."""
    face_of, x_of, y_of = samples.face, samples.place[0], samples.place[1]
    normal_x, normal_y, normal_z = samples.normal[0], samples.normal[1], samples.normal[2]
    red, green, blue = samples.color[0], samples.color[1], samples.color[2]
    is_smooth = (look.corner_normals.shape[0] > 0) | (look.vertex_colors.shape[0] > 0)
    is_textured = look.textures.shape[0] > 0
    for sample in range(count):
        face = face_of[sample]
        if face < 0:
            normal_x[sample], normal_y[sample], normal_z[sample] = 0.0, 0.0, 0.0
            red[sample], green[sample], blue[sample] = background[0], background[1], background[2]
            continue
        face = np.uint32(face)
        b0, b1, b2 = 1.0, 0.0, 0.0
        if is_smooth or (is_textured and look.face_texture[face] >= 0):
            x, y = np.int64(x_of[sample]), np.int64(y_of[sample])
            b0, b1, b2 = _barycentric(look, face, snapped, inverse_depth, x, y)
        x, y, z = _surface_normal(look, face, b0, b1, b2)
        normal_x[sample], normal_y[sample], normal_z[sample] = x, y, z
        r, g, b = _surface_color(look, face, b0, b1, b2)
        red[sample], green[sample], blue[sample] = r, g, b


@njit(**_INLINE)
@no_type_check
def _light_up(rays: Float64[np.ndarray, "3 3"], samples: RowSamples, count: int) -> None:
    """Multiply the colours of the samples by their light; the background's is 1."""
    face_of, x_of, y_of = samples.face[:count], samples.place[0], samples.place[1]
    normal_x, normal_y, normal_z = samples.normal[0], samples.normal[1], samples.normal[2]
    red, green, blue = samples.color[0], samples.color[1], samples.color[2]
    # Out of the loop, where the compiler cannot tell that writing colours leaves them alone.
    x0, x1, x2 = rays[0, 0], rays[0, 1], rays[0, 2]
    y0, y1, y2 = rays[1, 0], rays[1, 1], rays[1, 2]
    z0, z1, z2 = rays[2, 0], rays[2, 1], rays[2, 2]
    for sample in range(len(face_of)):
        x, y = x_of[sample], y_of[sample]
        ray = x0 * x + x1 * y + x2, y0 * x + y1 * y + y2, z0 * x + z1 * y + z2
        light = _light((normal_x[sample], normal_y[sample], normal_z[sample]), ray)
        light = light if face_of[sample] >= 0 else 1.0
        red[sample] *= light
        green[sample] *= light
        blue[sample] *= light


@njit(**_INLINE)
@no_type_check
def _average(samples: RowSamples, count: int, pixels: UInt8[np.ndarray, " S3"]) -> None:
    """Write the mean colour of the samples of each pixel that is not empty."""
    column_of, first = samples.column, samples.first
    red_of, green_of, blue_of = samples.color[0], samples.color[1], samples.color[2]
    for pixel in range(count):
        begin, end = np.uint32(first[pixel]), np.uint32(first[pixel + 1])
        red, green, blue = red_of[begin], green_of[begin], blue_of[begin]
        if end - begin > 1:
            for sample in range(begin + 1, end):
                red += red_of[np.uint32(sample)]
                green += green_of[np.uint32(sample)]
                blue += blue_of[np.uint32(sample)]
            share = 1 / (end - begin)
            red, green, blue = red * share, green * share, blue * share
        at = np.uint32(3 * column_of[pixel])
        pixels[at] = _to_byte(red)
        pixels[at + np.uint32(1)] = _to_byte(green)
        pixels[at + np.uint32(2)] = _to_byte(blue)


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
    # One material and no texture are usual: less to fetch from memory.
    material = np.uint32(0)
    if look.diffuse.shape[0] > 1:
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
    texture = -1
    if look.textures.shape[0] > 0:
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
    return AMBIENT + HEAD_LAMP * head + SKY * 0.5 * (1 + towards_sky)


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
