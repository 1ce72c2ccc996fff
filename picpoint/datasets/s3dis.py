"""S3DIS: rooms of six areas of three buildings, whose points belong to 13 kinds of things.

    s3dis_blocks   indoor3d_sem_seg_hdf5_data/ all_files.txt, room_filelist.txt (a line for each
                   block) and ply_data_all_*.h5 with data (n, 4096, 9) and label (n, 4096): columns
                   of squares of floor, 1 m wide, of which 4,096 points were drawn, again and again
                   where there were fewer. 23,585 blocks, 6,852 of them in Area_5.
    s3dis_rooms    the data set's own text files (s3dis_text.py), or stanford_indoor3d/
                   Area_1_office_3.npy and so on, (n, 7) numbers: x y z, r g b 0..255, label. Rooms
                   become clouds of a point for every voxel of 4 cm that is not empty: the mean of
                   its points, the label of most of them, and how many of them have which label, so
                   that all points of the files are measured on. 272 rooms, 68 of them in Area_5.

Metres, z up in the files. Columns 0 to 2 of a block are positions about the middle of its square,
3 to 5 colours, 0..1, and 6 to 8 shares of the room's extent. Splits are the areas: published
figures test on Area_5, or on each area in turn.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from picpoint.data.dataset import DatasetInfo
from picpoint.datasets.hdf5 import opened, read_labels, read_points
from picpoint.datasets.s3dis_text import find_rooms, read_rows
from picpoint.datasets.source import (
    BrokenDataError,
    CloudSource,
    MissingDataError,
    find_file,
    read_lines,
    z_up_to_y_up,
)
from picpoint.datasets.voxels import gather_voxels
from shards.clouds import Cloud

THINGS = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
)
_URL = "http://buildingparser.stanford.edu/dataset.html (for research, by a form)"
_NUM_BLOCKS = 23_585
_NUM_ROOMS = 272
# As PointNeXt and Point Transformer take them.
VOXEL_M = 0.04
# Farther from its origin no room lies.
_FARTHEST_M = 10_000
# Rows of a room that are in memory at once.
_PIECE_ROWS = 1 << 18
_ROOM = re.compile(r"(Area_[1-6])_([A-Za-z]+_\d+)")


def open_blocks(folder: Path) -> CloudSource:
    """Open the blocks in HDF5.

    Raises:
        MissingDataError: the lists are not there.
        BrokenDataError: a line of the list of rooms names none.
    """
    inner = folder / "indoor3d_sem_seg_hdf5_data"
    root = inner if inner.is_dir() else folder
    files = read_lines(find_file(root, "all_files.txt", _URL))
    rooms_file = find_file(root, "room_filelist.txt", _URL)
    rooms = [_room(line, rooms_file) for line in read_lines(rooms_file)]

    def read() -> Iterator[Cloud]:
        started = 0
        numbers: Counter[str] = Counter()
        for name in files:
            path = find_file(root, Path(name).name, _URL)
            for block in _blocks_of(path, rooms, started, numbers):
                started += 1
                yield block
        if started != len(rooms):
            raise BrokenDataError(
                f"{rooms_file}: {len(rooms)} blocks, and the files of all_files.txt hold "
                f"{started}; fetch the data set again"
            )

    info = DatasetInfo("s3dis_blocks", (), THINGS, {}, _URL)
    return CloudSource(info, {}, read, num_published=_NUM_BLOCKS)


def open_rooms(folder: Path) -> CloudSource:
    """Open whole rooms.

    Raises:
        MissingDataError: there are none.
    """
    inner = folder / "stanford_indoor3d"
    root = inner if inner.is_dir() else folder
    arrays = {path.stem: path for path in root.glob("Area_*.npy") if _ROOM.fullmatch(path.stem)}
    texts = {} if arrays else find_rooms(folder)
    if not (arrays or texts):
        raise MissingDataError(
            f"{folder}: no rooms such as Area_1_office_3.npy, and no text files such as "
            "Area_1/office_3/Annotations/chair_1.txt; --from must name the folder that holds "
            f"stanford_indoor3d or Stanford3dDataset_v1.2_Aligned_Version (the data: {_URL})"
        )

    def read() -> Iterator[Cloud]:
        for name, path in sorted((arrays or texts).items()):
            pieces = _rows_of(path) if arrays else read_rows(path, THINGS)
            yield _gather_room(name, path, _checked(pieces, path))

    info = DatasetInfo("s3dis_rooms", (), THINGS, {}, _URL)
    return CloudSource(info, {}, read, num_published=_NUM_ROOMS)


def _gather_room(name: str, path: Path, pieces: Iterable[Float64[np.ndarray, "n 7"]]) -> Cloud:
    """Read a room of any size: a piece at a time, of which its voxels are kept."""
    voxels = gather_voxels(pieces, VOXEL_M, len(THINGS))
    low, high = voxels.positions.min(axis=0), voxels.positions.max(axis=0)
    places = (voxels.positions - low) / np.where(high > low, high - low, 1)
    return Cloud(
        _room(name, path),
        "",
        z_up_to_y_up(voxels.positions.astype(np.float32)),
        colors=np.rint(voxels.colors).astype(np.uint8),
        point_labels=voxels.label_counts.argmax(axis=1).astype(np.uint8),
        places=places[:, [0, 2, 1]].astype(np.float32),
        label_counts=voxels.label_counts,
    )


def _open_rows(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BrokenDataError(f"{path}: no whole array ({error}); make it again") from error
    if rows.ndim != 2 or rows.shape[1] != 7 or rows.dtype.kind != "f" or not len(rows):
        raise BrokenDataError(
            f"{path}: {rows.dtype} {rows.shape}; (n, 7) numbers are needed, x y z r g b label"
        )
    return rows


def _rows_of(path: Path) -> Iterator[Float64[np.ndarray, "n 7"]]:
    for start in range(0, len(_open_rows(path)), _PIECE_ROWS):
        # Opened for each piece: what was read of an open file counts as memory of this process.
        yield _open_rows(path)[start : start + _PIECE_ROWS].astype(np.float64)


def _checked(
    pieces: Iterable[Float64[np.ndarray, "n 7"]], path: Path
) -> Iterator[Float64[np.ndarray, "n 7"]]:
    started = 0
    for piece in pieces:
        colors, labels = piece[:, 3:6], piece[:, 6]
        if not np.isfinite(piece).all():
            bad = started + int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])
            raise BrokenDataError(f"{path}: NaN or infinity in row {bad}; make it again")
        if np.abs(piece[:, :3]).max() > _FARTHEST_M or colors.min() < 0 or colors.max() > 255:
            raise BrokenDataError(
                f"{path}: positions as far as {np.abs(piece[:, :3]).max():g} and colours from "
                f"{colors.min():g} to {colors.max():g}; metres and 0 to 255 are needed"
            )
        if labels.min() < 0 or labels.max() >= len(THINGS) or (labels % 1).any():
            raise BrokenDataError(
                f"{path}: labels from {labels.min():g} to {labels.max():g}; they must be whole "
                f"numbers from 0 to {len(THINGS) - 1}: is this another data set's file?"
            )
        started += len(piece)
        yield piece


def _room(line: str, path: Path) -> str:
    if (found := _ROOM.fullmatch(line)) is None:
        raise BrokenDataError(f"{path}: {line!r} is no room such as Area_1_office_3")
    return "/".join(found.groups())


def _blocks_of(
    path: Path, rooms: list[str], started: int, numbers: Counter[str]
) -> Iterator[Cloud]:
    """Give the blocks of a file; the first of them is number `started` of all."""
    with opened(path) as file:
        rows = read_points(file, path, 9)
        labels = read_labels(file, path, "label", rows.shape[:2], len(THINGS))
    if started + len(rows) > len(rooms):
        raise BrokenDataError(
            f"{path}: more blocks than the {len(rooms)} of room_filelist.txt; fetch it again"
        )
    colors, places = rows[..., 3:6], rows[..., 6:9]
    for what, array in (("colours", colors), ("places in the room", places)):
        if array.size and not (array.min() >= 0 and array.max() <= 1 + 1e-6):
            raise BrokenDataError(
                f"{path}: {what} go from {array.min():g} to {array.max():g}, and should from 0 to "
                "1: is this another data set's file?"
            )
    for number, room in enumerate(rooms[started : started + len(rows)]):
        yield Cloud(
            f"{room}/{numbers[room]:04d}",
            "",
            z_up_to_y_up(rows[number, :, :3]),
            colors=np.rint(255 * colors[number]).astype(np.uint8),
            point_labels=labels[number].astype(np.uint8),
            # As z went to y; a share of the extent has no sign to turn.
            places=np.clip(places[number][:, [0, 2, 1]], 0, 1),
        )
        numbers[room] += 1
