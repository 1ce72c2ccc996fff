"""How does a scan of any size become few points? By the means of the voxels that it fills."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt32

# A voxel's number has 21 bits for each axis.
_HALF = 1 << 20


@dataclass(frozen=True, slots=True)
class Voxels:
    """What is known of the points in each voxel that is not empty, in order of their places.

    Attributes:
        positions: mean of the points, in their unit.
        colors: mean of their colours.
        label_counts: how many points have each label.
    """

    positions: Float64[np.ndarray, "V 3"]
    colors: Float64[np.ndarray, "V 3"]
    label_counts: UInt32[np.ndarray, "V L"]


def gather_voxels(
    pieces: Iterable[Float64[np.ndarray, "n 7"]], side: float, num_labels: int
) -> Voxels:
    """Gather points by voxel; the memory is that of a piece and of the voxels.

    Args:
        pieces: rows of x y z r g b and label, which is a whole number below `num_labels`.
        side: of a voxel, in the unit of the points.
        num_labels: L.

    Raises:
        ValueError: points lie a million voxels away from the origin or are NaN, or a label is not
            one of them.
    """
    numbers = np.zeros(0, np.int64)
    sums, counts = np.zeros((0, 6)), np.zeros((0, num_labels), np.uint32)
    for piece in pieces:
        if not np.isin(piece[:, 6], np.arange(num_labels)).all():
            raise ValueError(f"labels must be whole numbers from 0 to {num_labels - 1}")
        held, voxel = np.unique(_numbers_of(piece[:, :3], side), return_inverse=True)
        new = np.setdiff1d(held, numbers, assume_unique=True)
        if len(new):
            where = np.searchsorted(numbers, new)
            numbers = np.insert(numbers, where, new)
            sums, counts = (np.insert(each, where, 0, axis=0) for each in (sums, counts))
        rows = np.searchsorted(numbers, held)
        weights = piece[:, :6].T
        sums[rows] += np.stack([np.bincount(voxel, each, len(held)) for each in weights], axis=1)
        pairs = voxel * num_labels + piece[:, 6].astype(np.int64)
        of_labels = np.bincount(pairs, minlength=len(held) * num_labels)
        counts[rows] += of_labels.reshape(-1, num_labels).astype(np.uint32)
    means = sums / counts.sum(axis=1, keepdims=True)
    return Voxels(means[:, :3], means[:, 3:], counts)


def _numbers_of(points: Float64[np.ndarray, "n 3"], side: float) -> Int64[np.ndarray, " n"]:
    """Give the number of the voxel that each point lies in."""
    cells = np.floor(points / side)
    if not (np.abs(cells) < _HALF).all():
        raise ValueError(f"a point lies {np.abs(points).max():g} from the origin")
    places = cells.astype(np.int64) + _HALF
    return (places[:, 0] << 42) | (places[:, 1] << 21) | places[:, 2]
