"""Where are the cameras, and where does a point land? THE convention of the project.

World: right-handed, y up, the shape in the unit sphere. Camera: x right, y up, looks along -z.
Matrices are OpenGL's, for column vectors, translation in the last column:

    camera = view_matrix @ world          clip = projection_matrix @ camera
    ndc = clip[:3] / clip[3]              u = (ndc.x + 1) * W / 2      v = (1 - ndc.y) * H / 2

NDC y points up, picture row 0 is the top row, pixel centres lie at +0.5. clip[3] is the depth along
the viewing axis, in world units.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Float32

RigName = Literal["dodecahedron"]

# Distance between the unit sphere and the frame of the picture, as a share of the half picture.
_FRAME_MARGIN = 0.02
# Distance from the origin to the near and the far plane: the sphere, and room for rounding.
_HALF_DEPTH = 1.01
# Wider, and the near plane would reach the camera.
_MAX_FOV_RAD = 2.5


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras of one shape.

    Attributes:
        view_matrices: world to camera, (V, 4, 4).
        projection_matrices: camera to clip, (V, 4, 4).
        size_px: side of the square picture.
    """

    view_matrices: Float32[np.ndarray, "V 4 4"]
    projection_matrices: Float32[np.ndarray, "V 4 4"]
    size_px: int

    @property
    def positions(self) -> Float32[np.ndarray, "V 3"]:
        """Give the camera centres in the world frame."""
        rotation, translation = self.view_matrices[:, :3, :3], self.view_matrices[:, :3, 3]
        return -(rotation.swapaxes(1, 2) @ translation[..., None])[..., 0]


@dataclass(frozen=True, slots=True)
class RigConfig:
    """Which cameras look at every shape.

    Attributes:
        name: layout of the camera centres; `dodecahedron` is the paper's 20 views.
        fov_rad: full opening angle. Paper: unspecified; here 0.6, a mild perspective.
        size_px: side of the square picture. Paper: unspecified; here 224, as ImageNet networks.
    """

    name: RigName = "dodecahedron"
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


def build_cameras(rig: RigConfig) -> Cameras:
    """Build the cameras of a rig, all looking at the origin and framing the unit sphere.

    Source: Pic@Point (arXiv:2410.09519), 20 views at the vertices of a regular dodecahedron.
    """
    match rig.name:
        case "dodecahedron":
            directions = dodecahedron_vertices()
    # The sphere's tangent cone cuts the picture in a circle this much smaller than the frame.
    tangent_rad = math.atan((1 - _FRAME_MARGIN) * math.tan(rig.fov_rad / 2))
    distance = 1 / math.sin(tangent_rad)
    view_matrices = np.stack([look_at_origin(distance * direction) for direction in directions])
    projection = perspective(rig.fov_rad, distance - _HALF_DEPTH, distance + _HALF_DEPTH)
    return Cameras(
        view_matrices=view_matrices.astype(np.float32),
        projection_matrices=np.repeat(projection[None].astype(np.float32), len(directions), axis=0),
        size_px=rig.size_px,
    )


def dodecahedron_vertices() -> Float[np.ndarray, "20 3"]:
    """Give the unit vectors to the 20 vertices of a regular dodecahedron, in a fixed order."""
    golden = (1 + math.sqrt(5)) / 2
    signs = (-1.0, 1.0)
    cube = [(x, y, z) for x in signs for y in signs for z in signs]
    rectangle = [(a / golden, b * golden) for a in signs for b in signs]
    vertices = np.array(
        cube
        + [(0.0, a, b) for a, b in rectangle]
        + [(a, b, 0.0) for a, b in rectangle]
        + [(b, 0.0, a) for a, b in rectangle]
    )
    return vertices / math.sqrt(3)


def look_at_origin(position: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """Build the view matrix of a camera at `position` that looks at the origin, y up.

    Straight above or below, where "up" says nothing, -z (above) or +z (below) is up.
    """
    backward = position / np.linalg.norm(position)
    up = np.array([0.0, 1.0, 0.0])
    if abs(backward[1]) > 1 - 1e-6:
        up = np.array([0.0, 0.0, -math.copysign(1.0, backward[1])])
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward])
    view_matrix = np.eye(4)
    view_matrix[:3, :3] = rotation
    view_matrix[:3, 3] = -rotation @ position
    return view_matrix


def perspective(fov_rad: float, near: float, far: float) -> Float[np.ndarray, "4 4"]:
    """Build OpenGL's projection matrix for a square picture."""
    focal = 1 / math.tan(fov_rad / 2)
    depth_scale, depth_shift = (near + far) / (near - far), 2 * near * far / (near - far)
    return np.array(
        [[focal, 0, 0, 0], [0, focal, 0, 0], [0, 0, depth_scale, depth_shift], [0, 0, -1, 0]]
    )


# A NumPy array or a torch tensor: projection needs only what both share, and this room no torch.
AnyArray = TypeVar("AnyArray", bound=Any)


def world_to_pixel(
    points: AnyArray, view_matrices: AnyArray, projection_matrices: AnyArray, size_px: int
) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Project world points, as NumPy arrays or torch tensors alike.

    Args:
        points: (..., N, 3), world frame.
        view_matrices: (..., 4, 4), broadcast against the leading axes of `points`.
        projection_matrices: (..., 4, 4).
        size_px: side of the square picture.

    Returns:
        u (..., N) and v (..., N) in px, which may lie outside the picture, and the depth (..., N)
        along the viewing axis; a point with depth <= 0 is not in front of the camera.
    """
    world_to_clip = (projection_matrices @ view_matrices).swapaxes(-1, -2)
    clip = points @ world_to_clip[..., :3, :] + world_to_clip[..., 3:, :]
    depth = clip[..., 3]
    u_px = (clip[..., 0] / depth + 1.0) * (size_px / 2)
    v_px = (clip[..., 1] / depth * -1.0 + 1.0) * (size_px / 2)
    return u_px, v_px, depth
