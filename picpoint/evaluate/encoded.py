"""What does one encoder say of every shape? The arrays that all measures are taken from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from picpoint.linear_probe import ProbeError

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class EncodedShapes:
    """What one encoder says of every shape, of the pre-training and of the held-out part.

    Attributes:
        keys: sample keys.
        class_names: names of the classes; a label is an index into them.
        labels: class of each shape; -1 where unknown, and such a shape is not probed.
        features: the point encoder's pooled feature, before the projection head.
        shape_embeddings: unit vectors of the clouds, in the latent space.
        picture_embeddings: unit vectors of the pictures; view slot v is the same camera for every
            shape.
        held_out: True for a shape that pre-training never saw.
    """

    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    features: Float32[np.ndarray, "n F"]
    shape_embeddings: Float32[np.ndarray, "n D"]
    picture_embeddings: Float32[np.ndarray, "n V D"]
    held_out: Bool[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.labels) == len(self.features) == len(self.held_out):
            raise ProbeError(f"{len(self.keys)} keys: every shape needs one row of each array")
        if len(set(self.keys)) < len(self.keys):
            raise ProbeError("a key stands twice: evaluate every shape once")
        for told in (self.features, self.shape_embeddings, self.picture_embeddings):
            if not np.isfinite(told).all():
                raise ProbeError(
                    "not all features are finite: the encoder diverged; lower optim.lr"
                )

    @property
    def probe_train(self) -> Int64[np.ndarray, " t"]:
        """Rows of the labelled pre-training shapes."""
        return np.flatnonzero(~self.held_out & (self.labels != UNLABELLED))

    @property
    def probe_test(self) -> Int64[np.ndarray, " h"]:
        """Rows of the labelled held-out shapes."""
        return np.flatnonzero(self.held_out & (self.labels != UNLABELLED))

    def keys_of(self, rows: Int64[np.ndarray, " r"]) -> tuple[str, ...]:
        """Give the keys of some rows."""
        return tuple(self.keys[row] for row in rows)
