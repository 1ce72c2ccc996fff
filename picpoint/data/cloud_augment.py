"""How is a labelled cloud changed in training? The recipes of the field's classifiers."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from picpoint.data.augment import draw_rotation, jitter_points


@dataclass(frozen=True, slots=True)
class CloudAugmentConfig:
    """Random changes of a cloud.

    Attributes:
        rotation: `none`, `yaw` (about y, which is up) or `any`.
        scale_min: smallest factor.
        scale_max: largest factor.
        scale_axes: draw a factor for each axis, not one for all.
        mirror: chance, for x and for z each, that the cloud is mirrored along it.
        shift: largest shift along each axis, in units of the (normalised) cloud.
        jitter: standard deviation of noise on each coordinate, clipped at three of it.
        color_drop: chance that all colours of a cloud are 0, for networks that take colours.
    """

    rotation: Literal["none", "yaw", "any"] = "none"
    scale_min: float = 2 / 3
    scale_max: float = 3 / 2
    scale_axes: bool = True
    mirror: float = 0.0
    shift: float = 0.2
    jitter: float = 0.0
    color_drop: float = 0.0

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
        for name in ("mirror", "color_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"data.augment.{name}={getattr(self, name)}: a chance is from 0 to 1"
                )


UNCHANGED = CloudAugmentConfig(scale_min=1.0, scale_max=1.0, scale_axes=False, shift=0.0)

# Test-time votes: one factor for all axes, as in the voting of RS-CNN (arXiv:1904.07601).
VOTE = CloudAugmentConfig(scale_min=0.8, scale_max=1.2, scale_axes=False, shift=0.0)


@dataclass(frozen=True, slots=True)
class ChangedCloud:
    """Points after a change, and their normals (0 rows where there are none)."""

    points: Float32[np.ndarray, "N 3"]
    normals: Float32[np.ndarray, "N_normals 3"]


def change_cloud(
    points: Float32[np.ndarray, "N 3"],
    normals: Float32[np.ndarray, "N_normals 3"],
    config: CloudAugmentConfig,
    generator: np.random.Generator,
) -> ChangedCloud:
    """Scale, mirror, turn, shift and jitter a cloud, in this order; normals go along."""
    num_factors = 3 if config.scale_axes else 1
    factors = generator.uniform(config.scale_min, config.scale_max, num_factors)
    signs = np.where(generator.random(3) < [config.mirror, 0.0, config.mirror], -1.0, 1.0)
    rotation = draw_rotation(config.rotation, generator)
    shift = generator.uniform(-config.shift, config.shift, 3)
    moved = ((points * (factors * signs)) @ rotation.T + shift).astype(np.float32)
    if config.jitter:
        moved = jitter_points(moved, config.jitter, generator)
    if len(normals):
        # Planes that are scaled turn their normals by the inverse.
        turned = (normals * (signs / factors)) @ rotation.T
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        normals = (turned / np.maximum(lengths, 1e-12)).astype(np.float32)
    return ChangedCloud(moved, normals)
