"""What does a pixel show? The formulas of picpoint/render/shading.py, in torch, for GPUs.

For the renderers whose face ids are born on a GPU: looking them up on the CPU would cost more than
drawing them. Every sample is shaded, covered or not, so that nothing has to wait for a count.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64, UInt8
from torch import Tensor

from picpoint.render.look import Look
from picpoint.render.shading import AMBIENT, HEAD_LAMP, SKY

# What shading holds at a time for each sample: corners, normals, colours and their products.
BYTES_PER_SAMPLE = 400


@dataclass(frozen=True, slots=True)
class TorchLook:
    """A `Look` as tensors on a device; see there."""

    faces: Int32[Tensor, "m 3"]
    face_normals: Float32[Tensor, "m 3"]
    corner_normals: Float32[Tensor, "k 3 3"]
    vertex_colors: UInt8[Tensor, "j 3"]
    uv: Float32[Tensor, "l 3 2"]
    face_material: Int32[Tensor, " m"]
    face_texture: Int32[Tensor, " m"]
    diffuse: Float32[Tensor, "i 3"]
    textures: Int64[Tensor, "t 3"]
    texels: UInt8[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class Shaded:
    """Pictures: `colour` and `coverage` of a `Rendering`."""

    colour: UInt8[Tensor, "V S S 3"]
    coverage: Float32[Tensor, "V S S"]


def to_device(look: Look, device: torch.device) -> TorchLook:
    """Copy a look to a device."""
    return TorchLook(
        **{
            field.name: torch.as_tensor(getattr(look, field.name), device=device)
            for field in fields(TorchLook)
        }
    )


def shade(
    look: TorchLook,
    vertices_px: Float32[Tensor, "V n 2"],
    inverse_depth: Float32[Tensor, "V n"],
    face_id: Int32[Tensor, "V fine fine"],
    rays: Float64[Tensor, "V 3 3"],
    background: Float32[Tensor, "3"],
    size_px: int,
) -> Shaded:
    """Colour the visible faces and average the fine raster down to the picture.

    Args:
        look: faces and their appearance.
        vertices_px: vertices on the fine raster, x right and y down, in its px.
        inverse_depth: 1/w of the vertices.
        face_id: visible face on the fine raster, -1 where nothing is.
        rays: maps (x, y, 1), in px of the fine raster, to a world ray from each camera.
        background: sRGB, 0..1.
        size_px: side of the picture.
    """
    views, side = face_id.shape[:2]
    fine = side // size_px
    places = _places(face_id, fine)
    is_covered = face_id >= 0
    face = face_id.clamp(min=0).long().reshape(views, -1)
    corners = look.faces.long()[face]
    weights = _barycentric(vertices_px, inverse_depth, corners, places)
    light = _light(_surface_normal(look, face, weights), _rays(rays, places))
    color = light[..., None] * _surface_color(look, face, corners, weights)
    color = torch.where(is_covered.reshape(views, -1, 1), color, background)
    blocks = color.reshape(views, size_px, fine, size_px, fine, 3)
    colour = (255 * blocks.mean(dim=(2, 4)).clamp(0, 1) + 0.5).to(torch.uint8)
    coverage = is_covered.reshape(views, size_px, fine, size_px, fine).float().mean(dim=(2, 4))
    return Shaded(colour, coverage)


def _places(face_id: Int32[Tensor, "V fine fine"], fine: int) -> Float32[Tensor, "V P 2"]:
    """Say where each sample is shaded: in its pixel's middle if all of it shows one face."""
    views, side = face_id.shape[:2]
    size = side // fine
    blocks = face_id.reshape(views, size, fine, size, fine)
    one_face: Bool[Tensor, "V S 1 S 1"] = (
        (blocks == blocks[:, :, :1, :, :1]).all(dim=4, keepdim=True).all(dim=2, keepdim=True)
    )
    own = torch.arange(side, device=face_id.device, dtype=torch.float32) + 0.5
    middle = (own / fine).floor() * fine + fine / 2
    own, middle = own.reshape(size, fine), middle.reshape(size, fine)
    x = torch.where(one_face, middle, own)
    y = torch.where(one_face, middle[:, :, None, None], own[:, :, None, None])
    return torch.stack(torch.broadcast_tensors(x, y), dim=-1).reshape(views, -1, 2)


def _rays(
    rays: Float64[Tensor, "V 3 3"], places: Float32[Tensor, "V P 2"]
) -> Float32[Tensor, "V P 3"]:
    """Give the world ray from the camera to each sample."""
    to_ray = rays.to(torch.float32).mT
    return places @ to_ray[:, :2] + to_ray[:, 2:]


def _barycentric(
    vertices_px: Float32[Tensor, "V n 2"],
    inverse_depth: Float32[Tensor, "V n"],
    corners: Int64[Tensor, "V P 3"],
    places: Float32[Tensor, "V P 2"],
) -> Float32[Tensor, "V P 3"]:
    """Give the perspective-correct weights of the corners of each sample's face."""
    view = torch.arange(len(corners), device=corners.device)[:, None, None]
    away = vertices_px[view, corners] - places[:, :, None]
    after, before = away.roll(-1, dims=2), away.roll(-2, dims=2)
    opposite = after[..., 0] * before[..., 1] - after[..., 1] * before[..., 0]
    at_corner = opposite * inverse_depth[view, corners]
    total = at_corner.sum(dim=-1, keepdim=True)
    # Where nothing is covered, the first face's total may vanish; what comes of it is not shown.
    return at_corner / torch.where(total == 0, torch.ones_like(total), total)


def _surface_normal(
    look: TorchLook, face: Int64[Tensor, "V P"], weights: Float32[Tensor, "V P 3"]
) -> Float32[Tensor, "V P 3"]:
    """Give the unit normal of each sample, interpolated where corners have normals."""
    flat = look.face_normals[face]
    if len(look.corner_normals) == 0:
        return flat
    smooth = (weights[..., None] * look.corner_normals[face]).sum(dim=2)
    length = smooth.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-6, smooth / length.clamp(min=1e-6), flat)


def _surface_color(
    look: TorchLook,
    face: Int64[Tensor, "V P"],
    corners: Int64[Tensor, "V P 3"],
    weights: Float32[Tensor, "V P 3"],
) -> Float32[Tensor, "V P 3"]:
    """Give the unlit sRGB colour, 0..1, of each sample."""
    color = look.diffuse[look.face_material[face].long()]
    if len(look.vertex_colors):
        at_corners = look.vertex_colors[corners].float()
        color = color * (weights[..., None] * at_corners).sum(dim=2) / 255
    if len(look.textures):
        uv = (weights[..., None] * look.uv[face]).sum(dim=2)
        texture = look.face_texture[face].long()
        texel = _bilinear(look, texture.clamp(min=0), uv)
        color = torch.where(texture[..., None] >= 0, color * texel, color)
    return color


def _bilinear(
    look: TorchLook, texture: Int64[Tensor, "V P"], uv: Float32[Tensor, "V P 2"]
) -> Float32[Tensor, "V P 3"]:
    """Read textures between their texels, wrapping; v points up, rows go down."""
    offset, height, width = look.textures[texture].unbind(dim=-1)
    u, v = (uv - uv.floor()).unbind(dim=-1)
    x, y = u * width - 0.5, (1 - v) * height - 0.5
    left, top = x.floor(), y.floor()
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    x0, y0 = left.long() % width, top.long() % height
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height

    def texel(row: Int[Tensor, "V P"], column: Int[Tensor, "V P"]) -> Float[Tensor, "V P 3"]:
        first = offset + 3 * (row * width + column)
        return look.texels[first[..., None] + torch.arange(3, device=first.device)].float()

    upper = (1 - right_share) * texel(y0, x0) + right_share * texel(y0, x1)
    lower = (1 - right_share) * texel(y1, x0) + right_share * texel(y1, x1)
    return ((1 - bottom_share) * upper + bottom_share * lower) / 255


def _light(
    normal: Float32[Tensor, "V P 3"], ray: Float32[Tensor, "V P 3"]
) -> Float32[Tensor, "V P"]:
    """Give the light, 0..0.95, that falls on each sample."""
    along = (normal * ray).sum(dim=-1)
    towards_sky = torch.where(along < 0, normal[..., 1], -normal[..., 1])
    return AMBIENT + HEAD_LAMP * along.abs() / ray.norm(dim=-1) + SKY * 0.5 * (1 + towards_sky)
