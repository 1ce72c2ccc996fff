"""How are arrays read from HDF5, with every shape checked?"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Float32, Int64

from picpoint.datasets.source import BrokenDataError


@contextmanager
def opened(path: Path) -> Generator[h5py.File]:
    """Open a file for reading.

    Raises:
        BrokenDataError: it is no HDF5, or breaks off while it is read.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BrokenDataError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise BrokenDataError(f"{path}: no whole HDF5 file ({first}); fetch it again") from error


def read_points(file: h5py.File, path: Path, num_columns: int) -> Float32[np.ndarray, "n P C"]:
    """Read `data`: n clouds of P points.

    Args:
        file: opened.
        path: of the file, for messages.
        num_columns: least number of columns.

    Raises:
        BrokenDataError: it is missing, of another shape, or not finite.
    """
    points = _read(file, path, "data")
    if points.ndim != 3 or points.shape[2] < num_columns or points.dtype.kind != "f":
        raise BrokenDataError(
            f"{path}: data is {points.dtype} {points.shape}; (n, points, {num_columns} or more) of "
            "floats is needed: is this another data set's file?"
        )
    if not np.isfinite(points).all():
        count = int((~np.isfinite(points).all(axis=(1, 2))).sum())
        raise BrokenDataError(f"{path}: NaN or infinity in {count} clouds; fetch it again")
    return points.astype(np.float32)


def read_labels(
    file: h5py.File, path: Path, name: str, shape: tuple[int, ...], num_labels: int
) -> Int64[np.ndarray, "*shape"]:
    """Read labels, one for each cloud or point.

    Args:
        file: opened.
        path: of the file, for messages.
        name: of the array.
        shape: that it must have, but for axes of length 1 at its end.
        num_labels: each is below that.

    Raises:
        BrokenDataError: it is missing, of another shape, or out of range.
    """
    labels = _read(file, path, name)
    if labels.size != np.prod(shape) or labels.dtype.kind not in "iu":
        raise BrokenDataError(
            f"{path}: {name} is {labels.dtype} {labels.shape}; whole numbers {shape} are needed: "
            "is this another data set's file?"
        )
    labels = labels.astype(np.int64).reshape(shape)
    if labels.size and not (labels.min() >= 0 and labels.max() < num_labels):
        raise BrokenDataError(
            f"{path}: {name} goes from {labels.min()} to {labels.max()}; it must be from 0 to "
            f"{num_labels - 1}: is this another data set's file?"
        )
    return labels


def _read(file: h5py.File, path: Path, name: str) -> np.ndarray:
    found = cast("Any", file.get(name))
    if not isinstance(found, h5py.Dataset):
        raise BrokenDataError(
            f"{path}: no array {name!r}, but {', '.join(file.keys()) or 'nothing'}; is this "
            "another data set's file?"
        )
    return np.asarray(found[()])
