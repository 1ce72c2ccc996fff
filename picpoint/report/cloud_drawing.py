"""How does a cloud look, its points coloured? Each is drawn as a small lit ball, nearest on top."""

import math

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

from picpoint.geometry.cameras import look_at_origin, orthographic, world_to_pixel

# A little from the right and above, as the thumbnails of shapes.
_EYE = np.array([1.0, 0.8, 1.6])
# Drawn this much larger and scaled down, so that edges are smooth.
_OVERSAMPLE = 2
# Largest ball, as a share of the picture's side.
_LARGEST_BALL = 0.045

# Seen as well on white as on black.
PART_COLOURS = (
    (43, 125, 196),
    (226, 119, 43),
    (58, 157, 93),
    (201, 74, 150),
    (130, 110, 214),
    (176, 141, 40),
    (32, 157, 168),
    (214, 74, 82),
    (118, 146, 66),
    (150, 108, 84),
)


def draw_cloud(
    points: Float32[np.ndarray, "N 3"], parts: Int[np.ndarray, " N"], size_px: int
) -> UInt8[np.ndarray, "S S 4"]:
    """Draw a cloud on nothing, as RGBA.

    Args:
        points: in any unit; they are moved and scaled to fill the picture.
        parts: number of each point's colour, taken in turn.
        size_px: side of the picture.
    """
    side = size_px * _OVERSAMPLE
    radius = _radius_px(len(points), side)
    u_px, v_px, depth = _project(points, side, radius)
    offsets = _ball(radius)
    columns = np.rint(u_px)[:, None] + offsets[:, 0]
    rows = np.rint(v_px)[:, None] + offsets[:, 1]
    is_inside = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
    lit = _light(offsets, radius)
    colours = np.array(PART_COLOURS, np.float64)[parts % len(PART_COLOURS)]
    shades = colours[:, None] * (lit * _fade(depth)[:, None])[..., None]
    # The nearest is painted last; a ball bulges towards the eye.
    nearness = np.broadcast_to((-depth)[:, None], columns.shape)[is_inside]
    order = np.argsort(nearness, kind="stable")
    picture = np.zeros((side, side, 4), np.uint8)
    where = (rows[is_inside].astype(int)[order], columns[is_inside].astype(int)[order])
    picture[(*where, slice(0, 3))] = np.clip(shades[is_inside][order], 0, 255).astype(np.uint8)
    picture[(*where, 3)] = 255
    small = Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BOX)
    return np.asarray(small)


def _project(
    points: Float32[np.ndarray, "N 3"], side: int, radius: float
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    centred = points.astype(np.float64) - (points.max(axis=0) + points.min(axis=0)) / 2.0
    farthest = max(float(np.linalg.norm(centred, axis=1).max(initial=0.0)), 1e-12)
    view = look_at_origin(3.0 * _EYE / np.linalg.norm(_EYE))
    # The unit sphere, and the balls that lie on it.
    half_width = 1 / (1 - 2 * (radius + 1) / side)
    return world_to_pixel(centred / farthest, view, orthographic(half_width, 1.0, 5.0), side)


def _radius_px(num_points: int, side: int) -> float:
    """Choose balls that nearly touch on a surface of so many points."""
    return min(max(1.5, 0.9 * side / math.sqrt(max(num_points, 1))), _LARGEST_BALL * side)


def _ball(radius: float) -> Float[np.ndarray, "k 2"]:
    reach = np.arange(-math.floor(radius), math.floor(radius) + 1)
    grid = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    return grid[(grid**2).sum(axis=1) <= radius**2].astype(np.float64)


def _light(offsets: Float[np.ndarray, "k 2"], radius: float) -> Float[np.ndarray, " k"]:
    """Light a ball from the upper left."""
    flat = offsets / (radius + 0.5)
    up = np.sqrt(np.clip(1 - (flat**2).sum(axis=1), 0, 1))
    return 0.62 + 0.45 * np.clip(up * 0.7 - flat[:, 0] * 0.35 - flat[:, 1] * 0.5, 0, 1)


def _fade(depth: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Darken what is far a little."""
    near, far = depth.min(), depth.max()
    return 1.0 - 0.22 * (depth - near) / max(float(far - near), 1e-12)
