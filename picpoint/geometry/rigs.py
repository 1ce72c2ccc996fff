"""From which cameras is every shape rendered? Layouts, each with its cameras; see layouts.py.

A render may hold several layouts, one after another; pre-training then picks one by its name.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from picpoint.geometry.cameras import Cameras, look_at_origin, orthographic, perspective
from picpoint.geometry.layouts import Layout, directions, parse_layout, rig_name, spelling
from picpoint.geometry.matrix_file import MatrixFile, read_matrices

# Distance between the unit sphere and the frame of the picture, as a share of the half picture.
_FRAME_MARGIN = 0.02
# Distance from the origin to the near and the far plane: the sphere, and room for rounding.
_HALF_DEPTH = 1.01
# Wider, and the near plane would reach the camera.
_MAX_FOV_RAD = 2.5
# Any would do for the picture; visibility's tolerance is a share of the depth, so here about as far
# as the default perspective camera.
_ORTHOGRAPHIC_DISTANCE = 3.5


@dataclass(frozen=True, slots=True)
class RigConfig:
    """Which cameras look at every shape.

    Attributes:
        names: layouts, as layouts.py names them, one after another; `dodecahedron` is the paper's
            20 views. A file is given its digest here, so that settings name what it held.
        projection: `perspective` or `orthographic`; a file has its own. Paper: unspecified.
        fov_rad: full opening angle of a perspective camera. Paper: unspecified; here 0.6, a mild
            perspective.
        size_px: side of the square picture. Paper: unspecified; here 224, as ImageNet networks.
    """

    names: tuple[str, ...] = ("dodecahedron",)
    projection: Literal["perspective", "orthographic"] = "perspective"
    fov_rad: float = 0.6
    size_px: int = 224

    def __post_init__(self) -> None:
        if not 0 < self.fov_rad <= _MAX_FOV_RAD:
            raise ValueError(
                f"fov_rad {self.fov_rad}: must be more than 0 and at most {_MAX_FOV_RAD}; "
                "the default is 0.6"
            )
        if self.size_px < 1:
            raise ValueError(f"size_px {self.size_px}: must be at least 1; the default is 224")
        layouts = [parse_layout(name) for name in self.names]
        rigs = [rig_name(layout) for layout in layouts]
        if not rigs or len(set(rigs)) < len(rigs):
            raise ValueError(
                f"rig names {list(self.names)}: must be one or more, each once; the default is "
                "[dodecahedron]"
            )
        object.__setattr__(self, "names", tuple(map(spelling, layouts)))


def build_cameras(config: RigConfig) -> Cameras:
    """Build all cameras of a config, one layout after another; see `build_rigs`."""
    return join_cameras(build_rigs(config).values())


def build_rigs(config: RigConfig) -> dict[str, Cameras]:
    """Build the cameras of each layout, by its name, in their order.

    All but those of a file look at the origin and frame the unit sphere.

    Raises:
        ValueError: a file cannot be read, has changed, or holds matrices that cannot be used.

    Source: Pic@Point (arXiv:2410.09519), 20 views at the vertices of a regular dodecahedron.
    """
    layouts = map(parse_layout, config.names)
    return {rig_name(layout): _cameras_of(layout, config) for layout in layouts}


def join_cameras(rigs: Iterable[Cameras]) -> Cameras:
    """Put the cameras of several rigs one after another; their pictures are of one size."""
    rigs = list(rigs)
    return Cameras(
        view_matrices=np.concatenate([rig.view_matrices for rig in rigs]),
        projection_matrices=np.concatenate([rig.projection_matrices for rig in rigs]),
        size_px=rigs[0].size_px,
    )


def _cameras_of(layout: Layout, config: RigConfig) -> Cameras:
    match layout:
        case MatrixFile():
            views, projections = read_matrices(layout)
        case _:
            distance, projection = _framing(config)
            views = np.stack([look_at_origin(distance * each) for each in directions(layout)])
            projections = np.repeat(projection[None], len(views), axis=0)
    return Cameras(views.astype(np.float32), projections.astype(np.float32), config.size_px)


def _framing(config: RigConfig) -> tuple[float, Float[np.ndarray, "4 4"]]:
    """Give a camera's distance from the origin and its projection, so that the sphere fits."""
    match config.projection:
        case "perspective":
            # The sphere's tangent cone cuts the picture in a circle this much smaller than it.
            tangent_rad = math.atan((1 - _FRAME_MARGIN) * math.tan(config.fov_rad / 2))
            distance = 1 / math.sin(tangent_rad)
            near, far = distance - _HALF_DEPTH, distance + _HALF_DEPTH
            return distance, perspective(config.fov_rad, near, far)
        case "orthographic":
            distance = _ORTHOGRAPHIC_DISTANCE
            near, far = distance - _HALF_DEPTH, distance + _HALF_DEPTH
            return distance, orthographic(1 / (1 - _FRAME_MARGIN), near, far)
