"""What is a camera, and where does a point land in its picture? THE convention of the project.

World: right-handed, y up, the shape in the unit sphere. Camera: x right, y up, looks along -z.
Matrices are OpenGL's, for column vectors, translation in the last column:

    camera = view_matrix @ world          clip = projection_matrix @ camera
    ndc = clip[:3] / clip[3]              u = (ndc.x + 1) * W / 2      v = (1 - ndc.y) * H / 2

NDC y points up, picture row 0 is the top row, pixel centres lie at +0.5. The depth of a point is
-camera.z, along the viewing axis, in world units. A projection matrix ends in the row (0, 0, -1, 0)
where it is perspective, so that clip[3] is the depth, or in (0, 0, 0, 1) where it is orthographic.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32


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

    @property
    def is_orthographic(self) -> Bool[np.ndarray, " V"]:
        """Tell which cameras see along parallel rays."""
        return self.projection_matrices[:, 3, 3] == 1


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


def orthographic(half_width: float, near: float, far: float) -> Float[np.ndarray, "4 4"]:
    """Build OpenGL's matrix of parallel projection for a square picture.

    Args:
        half_width: half the side of what the picture shows, in world units.
        near: depth of the near plane.
        far: depth of the far plane.
    """
    scale = 1 / half_width
    depth_scale, depth_shift = 2 / (near - far), (near + far) / (near - far)
    return np.array(
        [[scale, 0, 0, 0], [0, scale, 0, 0], [0, 0, depth_scale, depth_shift], [0, 0, 0, 1]]
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
    u_px = (clip[..., 0] / clip[..., 3] + 1.0) * (size_px / 2)
    v_px = (clip[..., 1] / clip[..., 3] * -1.0 + 1.0) * (size_px / 2)
    to_depth = view_matrices[..., 2, :] * -1.0
    depth = (points @ to_depth[..., :3, None])[..., 0] + to_depth[..., 3:]
    return u_px, v_px, depth
