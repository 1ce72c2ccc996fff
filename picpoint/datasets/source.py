"""What is a labelled data set on disk? Its names, how many clouds each split has, and the clouds.

Clouds keep the data set's own unit and the order of their points, because protocols say "the first
1,024 points"; they are turned so that y is up. Their source ids begin with the split.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from picpoint.data.dataset import DatasetInfo
from shards.clouds import Cloud


class MissingDataError(FileNotFoundError):
    """Files of a data set are not there; the message says which, and where they are to be had."""


class BrokenDataError(ValueError):
    """Files of a data set do not hold what they should; the message names the file and the rule."""


@dataclass(frozen=True, slots=True)
class CloudSource:
    """A labelled data set, found on disk.

    Attributes:
        info: names of classes and parts.
        published: clouds of each split, as published; {} where that is not known.
        read: gives all clouds, one at a time.
        num_published: clouds of all splits together, where only that is known; 0 where not.
        left_out: how many files of each suffix stand among the clouds and are none.
    """

    info: DatasetInfo
    published: Mapping[str, int]
    read: Callable[[], Iterator[Cloud]]
    num_published: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def find_file(folder: Path, name: str, url: str) -> Path:
    """Find a file that a data set must have.

    Raises:
        MissingDataError: it is not there.
    """
    path = folder / name
    if not path.is_file():
        raise MissingDataError(
            f"{path}: not there; --from must name the folder that holds {name.split('/')[0]} "
            f"(the data: {url})"
        )
    return path


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, without blank ones.

    Raises:
        BrokenDataError: it is no text, or holds none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise BrokenDataError(f"{path}: no text; fetch the data set again") from error
    if not any(lines):
        raise BrokenDataError(f"{path}: an empty list; fetch the data set again")
    return list(filter(None, lines))


def read_table(path: Path, num_columns: int) -> Float32[np.ndarray, "n columns"]:
    """Read numbers from text, apart by commas or blanks.

    Args:
        path: of the file.
        num_columns: least number of columns.

    Raises:
        BrokenDataError: it is no table of numbers, or of fewer columns.
    """
    try:
        text = path.read_text(encoding="ascii").replace(",", " ")
        lines = text.splitlines()
        flat = np.array(text.split(), dtype=np.float32)
    except (UnicodeDecodeError, ValueError) as error:
        raise BrokenDataError(f"{path}: no table of numbers ({error}); fetch it again") from error
    rows = sum(1 for line in lines if line.strip())
    if rows == 0 or len(flat) % rows or len(flat) // rows < num_columns:
        raise BrokenDataError(
            f"{path}: {len(flat)} numbers in {rows} lines; every line has the same number of them, "
            f"at least {num_columns}: fetch it again"
        )
    return flat.reshape(rows, -1)


def z_up_to_y_up(rows: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
    """Turn points or normals whose z is up so that y is: (x, y, z) becomes (x, z, -y)."""
    return np.stack([rows[:, 0], rows[:, 2], -rows[:, 1]], axis=1)
