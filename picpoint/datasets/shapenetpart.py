"""ShapeNetPart: objects of 16 classes whose points belong to 50 parts, y up.

    shapenetpart_h5    hdf5_data/{train,val,test}_hdf5_file_list.txt, ply_data_*.h5 with
                       data (n, 2048, 3), label (n, 1) and pid (n, 2048)
    shapenetpart_text  shapenetcore_partanno_segmentation_benchmark_v0_normal/
                       synsetoffset2category.txt, train_test_split/shuffled_*_file_list.json,
                       SYNSET/ID.txt of lines x y z nx ny nz part

12,137 train + 1,870 val = 14,007, 2,874 test. Published figures are trained on train and val
(data.train=[train,val]).
"""

import json
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from picpoint.data.dataset import DatasetInfo
from picpoint.datasets.hdf5 import opened, read_labels, read_points
from picpoint.datasets.source import (
    BrokenDataError,
    CloudSource,
    find_file,
    read_lines,
    read_table,
)
from shards.clouds import Cloud

_URL = "https://shapenet.org (research use only)"
_SPLITS = ("train", "val", "test")
_PUBLISHED = {"train": 12_137, "val": 1_870, "test": 2_874}
# Class, its synset, and how many parts it has; in the order of their numbers.
_CLASSES = (
    ("Airplane", "02691156", 4),
    ("Bag", "02773838", 2),
    ("Cap", "02954340", 2),
    ("Car", "02958343", 4),
    ("Chair", "03001627", 4),
    ("Earphone", "03261776", 3),
    ("Guitar", "03467517", 3),
    ("Knife", "03624134", 2),
    ("Lamp", "03636649", 4),
    ("Laptop", "03642806", 2),
    ("Motorbike", "03790512", 6),
    ("Mug", "03797390", 2),
    ("Pistol", "03948459", 3),
    ("Rocket", "04099429", 3),
    ("Skateboard", "04225987", 3),
    ("Table", "04379243", 3),
)
_NAMES = tuple(name for name, _, _ in _CLASSES)
_OF_SYNSET = {synset: name for name, synset, _ in _CLASSES}
_FIRSTS = accumulate((count for _, _, count in _CLASSES), initial=0)
PARTS_OF_CLASS = dict(zip(_NAMES, pairwise(_FIRSTS), strict=True))
_PART_NAMES = tuple(f"{name} {part}" for name, _, count in _CLASSES for part in range(count))


def _info(name: str) -> DatasetInfo:
    return DatasetInfo(name, _NAMES, _PART_NAMES, PARTS_OF_CLASS, _URL)


def open_h5(folder: Path) -> CloudSource:
    """Open the data set as points in HDF5.

    Raises:
        MissingDataError: the lists are not there.
    """
    inner = [folder / name for name in ("hdf5_data", "shapenet_part_seg_hdf5_data")]
    root = next((each for each in inner if each.is_dir()), folder)
    lists = {
        split: read_lines(find_file(root, f"{split}_hdf5_file_list.txt", _URL)) for split in _SPLITS
    }

    def read() -> Iterator[Cloud]:
        for split, files in lists.items():
            for file in files:
                path = find_file(root, Path(file).name, _URL)
                yield from _clouds_of_h5(path, split)

    return CloudSource(_info("shapenetpart_h5"), _PUBLISHED, read)


def _clouds_of_h5(path: Path, split: str) -> Iterator[Cloud]:
    with opened(path) as file:
        points = read_points(file, path, 3)
        labels = read_labels(file, path, "label", points.shape[:1], len(_NAMES))
        parts = read_labels(file, path, "pid", points.shape[:2], len(_PART_NAMES))
    for number, label in enumerate(labels.tolist()):
        source_id = f"{split}/{path.stem}/{number:04d}"
        yield _checked(
            Cloud(
                source_id,
                _NAMES[label],
                points[number, :, :3].copy(),
                point_labels=parts[number].astype(np.uint8),
            ),
            path,
        )


def open_text(folder: Path) -> CloudSource:
    """Open the data set as points, normals and parts in text.

    Raises:
        MissingDataError: the lists are not there.
        BrokenDataError: a list is no list of shapes.
    """
    inner = folder / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    root = inner if inner.is_dir() else folder
    lists = {
        split: _listed(find_file(root, f"train_test_split/shuffled_{split}_file_list.json", _URL))
        for split in _SPLITS
    }

    def read() -> Iterator[Cloud]:
        for split, shapes in lists.items():
            for synset, name in shapes:
                yield _cloud_of_text(root, split, synset, name)

    return CloudSource(_info("shapenetpart_text"), _PUBLISHED, read)


def _listed(path: Path) -> list[tuple[str, str]]:
    """Read synset and name of each shape of a split; entries look like shape_data/SYNSET/NAME."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [tuple(entry.split("/")[-2:]) for entry in entries]
    except (ValueError, AttributeError, TypeError) as error:
        raise BrokenDataError(f"{path}: no list of shapes ({error}); fetch it again") from error
    for entry in found:
        if len(entry) != 2 or entry[0] not in _OF_SYNSET or entry[1] in ("", ".."):
            raise BrokenDataError(
                f"{path}: {'/'.join(entry)!r} is no SYNSET/NAME of one of the {len(_NAMES)} classes"
            )
    return [(synset, name) for synset, name in found]


def _cloud_of_text(root: Path, split: str, synset: str, name: str) -> Cloud:
    path = find_file(root, f"{synset}/{name}.txt", _URL)
    rows = read_table(path, 7)
    parts = rows[:, 6]
    if not np.isin(parts, range(len(_PART_NAMES))).all():
        raise BrokenDataError(
            f"{path}: its seventh column is no part from 0 to {len(_PART_NAMES) - 1}; fetch it "
            "again"
        )
    cloud = Cloud(
        f"{split}/{synset}/{name}",
        _OF_SYNSET[synset],
        rows[:, :3].copy(),
        normals=rows[:, 3:6].copy(),
        point_labels=parts.astype(np.uint8),
    )
    return _checked(cloud, path)


def _checked(cloud: Cloud, path: Path) -> Cloud:
    """Make sure that an object has only parts of its class."""
    first, stop = PARTS_OF_CLASS[cloud.label]
    if cloud.point_labels.min() < first or cloud.point_labels.max() >= stop:
        raise BrokenDataError(
            f"{path}: {cloud.source_id} is a {cloud.label} of parts {cloud.point_labels.min()} to "
            f"{cloud.point_labels.max()}; those of its class are {first} to {stop - 1}"
        )
    return cloud
