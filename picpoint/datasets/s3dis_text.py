"""S3DIS as it is fetched: for each thing in a room a text file, a line x y z r g b for each point.

    Stanford3dDataset_v1.2_Aligned_Version/Area_1/office_3/Annotations/chair_1.txt

Version 1.2 has two flaws, both mended here: a control character between two numbers in line 180,389
of Area_5/hallway_6/Annotations/ceiling_1.txt, and Area_5/office_36/Annotations/wall_3 (1).txt,
which others tell is wall_3.txt once more: where it is, it is passed over.
"""

import filecmp
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from jaxtyping import Float64

from picpoint.datasets.source import BrokenDataError

# Things that are not among the 13, which those who made the benchmark took for clutter.
_OTHERS = {"stairs": "clutter"}
_THING = re.compile(r"([A-Za-z]+)_\d+")
_COPY = re.compile(r" \(\d+\)$")
_PIECE_BYTES = 8 << 20
_COLUMNS = ["x", "y", "z", "r", "g", "b"]
_BLANKS = bytes(byte if byte > 32 or byte == 10 else 32 for byte in range(256))


def find_rooms(folder: Path) -> dict[str, Path]:
    """Find the annotations of each room, by names such as Area_1_office_3; none if there are none.

    Args:
        folder: which holds the areas, or the folder of the version with them.
    """
    # Of two versions the aligned one, whose name is the longer.
    for root in (folder, *sorted(folder.glob("Stanford3dDataset*"), reverse=True)):
        if found := sorted(root.glob("Area_*/*/Annotations")):
            return {f"{path.parts[-3]}_{path.parts[-2]}": path for path in found}
    return {}


def read_rows(annotations: Path, things: tuple[str, ...]) -> Iterator[Float64[np.ndarray, "n 7"]]:
    """Read the points of a room, some at a time: x y z r g b and the number of the thing.

    Positions begin at the lowest corner of the room, as in the arrays that others make of these
    files; so the text is read twice.

    Raises:
        BrokenDataError: a file that is of no known thing, or a line that is not six numbers.
    """
    files = {path: things.index(name) for path, name in _things_in(annotations, things)}
    low = np.min([piece[:, :3].min(axis=0) for path in files for piece in _pieces_of(path)], axis=0)
    for path, label in files.items():
        for piece in _pieces_of(path):
            labels = np.full((len(piece), 1), float(label))
            yield np.hstack([piece[:, :3] - low, piece[:, 3:], labels])


def _things_in(annotations: Path, things: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    files = sorted(annotations.glob("*.txt"))
    if not files:
        raise BrokenDataError(f"{annotations}: no text files; fetch the data set again")
    for path in files:
        original = path.with_stem(_COPY.sub("", path.stem))
        if original != path and original in files and filecmp.cmp(original, path, shallow=False):
            continue
        found = _THING.fullmatch(original.stem)
        name = _OTHERS.get(found[1], found[1]) if found else ""
        if name not in things:
            raise BrokenDataError(
                f"{path}: is of none of {', '.join((*things, *_OTHERS))}; it should be named like "
                "chair_1.txt"
            )
        yield path, name


def _pieces_of(path: Path) -> Iterator[Float64[np.ndarray, "n 6"]]:
    """Read a file of any size, some whole lines at a time."""
    rest, num_rows = b"", 0
    with path.open("rb") as file:
        while block := file.read(_PIECE_BYTES):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline and (rows := _parse(whole, path, num_rows)).size:
                num_rows += len(rows)
                yield rows
    if rest.strip() and (rows := _parse(rest, path, num_rows)).size:
        num_rows += len(rows)
        yield rows
    if not num_rows:
        raise BrokenDataError(f"{path}: no points; fetch the data set again")


def _parse(text: bytes, path: Path, num_before: int) -> Float64[np.ndarray, "n 6"]:
    text = text.translate(_BLANKS)
    if any(each in text for each in (b"  ", b" \n", b"\n ")) or text[:1] == b" ":  # dear, and rare
        text = b"\n".join(b" ".join(line.split()) for line in text.split(b"\n"))
    if not text.strip():
        return np.zeros((0, 6))
    try:
        table = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(use_threads=False, column_names=_COLUMNS),
            csv.ParseOptions(delimiter=" ", quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.float64()), null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise BrokenDataError(
            f"{path}, after {num_before} points: {str(error).splitlines()[0]}; each line needs six "
            "numbers, x y z r g b: fetch the data set again"
        ) from error
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
    if not np.isfinite(rows).all():
        bad = num_before + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise BrokenDataError(f"{path}: NaN or infinity in point {bad}; fetch the data set again")
    return rows
