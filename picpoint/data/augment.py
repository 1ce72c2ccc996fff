"""How is a cloud moved before the encoder sees it, and what becomes of its cameras?"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Random motion of the clouds in pre-training.

    Attributes:
        rotation: `none`, `yaw` (about y) or `any`. Paper: unspecified; here yaw, because CAD
            shapes stand upright.
        scale_min: smallest uniform scale.
        scale_max: largest uniform scale.
        shift: largest shift along each axis, in unit-sphere units.
        jitter: standard deviation of noise on each point, clipped at three of it. It breaks the
            farthest-point order of the stored points, which is then computed again.
    """

    rotation: Literal["none", "yaw", "any"] = "yaw"
    scale_min: float = 0.8
    scale_max: float = 1.2
    shift: float = 0.1
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max:
            raise ValueError(
                f"data.augment.scale_min={self.scale_min}, data.augment.scale_max="
                f"{self.scale_max}: must be above 0 and in this order; 1 and 1 for no scaling"
            )
        for name in ("shift", "jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"data.augment.{name}={getattr(self, name)}: must be 0 or more; 0 for none"
                )

    @property
    def keeps_farthest_order(self) -> bool:
        """Whether a cloud in farthest-point order still is: rigid motion and scaling keep it."""
        return self.jitter == 0


UNMOVED = AugmentConfig(rotation="none", scale_min=1.0, scale_max=1.0, shift=0.0)


def random_motion(
    config: AugmentConfig, generator: np.random.Generator
) -> Float[np.ndarray, "4 4"]:
    """Draw a similarity transform, original world to augmented world."""
    scale = math.exp(generator.uniform(math.log(config.scale_min), math.log(config.scale_max)))
    motion = np.eye(4)
    motion[:3, :3] = scale * draw_rotation(config.rotation, generator)
    motion[:3, 3] = generator.uniform(-config.shift, config.shift, 3)
    return motion


def move_points(
    points: Float32[np.ndarray, "N 3"], motion: Float[np.ndarray, "4 4"]
) -> Float32[np.ndarray, "N 3"]:
    """Apply a motion to points."""
    return (points @ motion[:3, :3].T + motion[:3, 3]).astype(np.float32)


def move_cameras(
    view_matrices: Float32[np.ndarray, "V 4 4"], motion: Float[np.ndarray, "4 4"]
) -> Float32[np.ndarray, "V 4 4"]:
    """Compose a motion into view matrices: a moved point keeps its pixel (V' = V A^-1)."""
    return (view_matrices @ np.linalg.inv(motion)).astype(np.float32)


def jitter_points(
    points: Float32[np.ndarray, "N 3"], sigma: float, generator: np.random.Generator
) -> Float32[np.ndarray, "N 3"]:
    """Add clipped Gaussian noise to every coordinate."""
    noise = np.clip(generator.normal(0, sigma, points.shape), -3 * sigma, 3 * sigma)
    return (points + noise).astype(np.float32)


def draw_rotation(
    kind: Literal["none", "yaw", "any"], generator: np.random.Generator
) -> Float[np.ndarray, "3 3"]:
    """Draw a rotation matrix, uniformly among those of a kind."""
    match kind:
        case "none":
            return np.eye(3)
        case "yaw":
            angle = generator.uniform(0, 2 * math.pi)
            cosine, sine = math.cos(angle), math.sin(angle)
            return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        case "any":
            # A unit quaternion from a 4-d Gaussian is uniform over rotations.
            w, x, y, z = (q := generator.normal(size=4)) / np.linalg.norm(q)
            return np.array(
                [
                    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
                ]
            )
