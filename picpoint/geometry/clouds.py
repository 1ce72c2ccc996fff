"""How does a shape become a cloud? Fitting into the unit sphere, and sampling the surface."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64
from numpy.typing import NDArray

# Keeps every vertex inside the sphere after rounding to float32.
_SPHERE_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class UnitSphereFit:
    """What takes a mesh into the unit sphere: subtract `center`, then multiply by `scale`.

    Attributes:
        center: middle of the bounding box, in the mesh's own frame and units.
        scale: one over the largest distance from `center`.
    """

    center: tuple[float, float, float]
    scale: float

    def apply(self, points: Float[np.ndarray, "P 3"]) -> Float32[np.ndarray, "P 3"]:
        """Map points of the mesh's own frame into the unit sphere."""
        center = np.array(self.center, dtype=np.float64)
        return np.ascontiguousarray((points - center) * self.scale, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class SurfaceSample:
    """Points on a surface, and where on it they lie.

    Attributes:
        points: positions, in the frame of the vertices.
        face_index: which face each point was drawn on.
        barycentric: weights of that face's three corners; they add up to 1.
    """

    points: Float32[np.ndarray, "P 3"]
    face_index: Int64[np.ndarray, " P"]
    barycentric: Float32[np.ndarray, "P 3"]


def fit_unit_sphere(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]
) -> UnitSphereFit:
    """Find the move and the scale that put a mesh into the unit sphere.

    Vertices that no face uses have no say.

    Args:
        vertices: positions, in any frame and unit.
        faces: vertex indices.

    Returns:
        The fit; the farthest used vertex lands on the sphere.

    Raises:
        ValueError: there are no faces, or all used vertices are the same point.
    """
    if len(faces) == 0:
        raise ValueError("0 faces: a mesh needs at least one to have a size; reject it earlier")
    used = vertices[np.unique(faces)].astype(np.float64)
    center = (used.min(axis=0) + used.max(axis=0)) / 2
    radius = float(np.linalg.norm(used - center, axis=1).max())
    if not radius > 0:
        raise ValueError(f"radius {radius}: all used vertices are one point; reject the mesh")
    x, y, z = center.tolist()
    return UnitSphereFit(center=(x, y, z), scale=(1 - _SPHERE_SLACK) / radius)


def sample_surface(
    vertices: Float32[np.ndarray, "n 3"],
    faces: Int32[np.ndarray, "m 3"],
    num_points: int,
    seed: int,
) -> SurfaceSample:
    """Draw points evenly from the surface of a mesh, each face by its area.

    Args:
        vertices: positions.
        faces: vertex indices; faces without area are never drawn.
        num_points: how many points to draw.
        seed: the same mesh and seed give the same points on any machine.

    Returns:
        The points in the order they were drawn.

    Raises:
        ValueError: the mesh has no area.
    """
    corners = vertices.astype(np.float64)[faces]
    cumulative_area: NDArray[np.float64] = face_areas(corners).cumsum()
    if len(faces) == 0 or not cumulative_area[-1] > 0:
        raise ValueError(f"{len(faces)} faces without area: there is no surface to sample")
    uniform = np.random.Generator(np.random.Philox(seed)).random((3, num_points))
    # side="right" finds the first face whose sum exceeds the draw: never one that adds nothing.
    drawn_area: NDArray[np.float64] = uniform[0] * cumulative_area[-1]
    # A draw may round up to the whole area; then the last face that adds to it is meant.
    face_index = np.minimum(
        cumulative_area.searchsorted(drawn_area, side="right"), np.argmax(cumulative_area)
    )
    barycentric = uniform_barycentric(uniform[1], uniform[2])
    points = np.einsum("pk,pkc->pc", barycentric, corners[face_index])
    return SurfaceSample(
        points=points.astype(np.float32),
        face_index=face_index.astype(np.int64),
        barycentric=barycentric.astype(np.float32),
    )


def face_areas(corners: Float[np.ndarray, "m 3 3"]) -> Float[np.ndarray, " m"]:
    """Compute the area of each triangle from its corners (face, corner, xyz)."""
    edge_b, edge_c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.linalg.norm(np.cross(edge_b, edge_c), axis=1) / 2


def uniform_barycentric(
    first: Float[np.ndarray, " P"], second: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "P 3"]:
    """Map pairs of uniform numbers in [0, 1) to weights that spread evenly over a triangle."""
    root = np.sqrt(first)
    return np.stack([1 - root, root * (1 - second), root * second], axis=1)
