"""ModelNet40 and ModelNet10: CAD shapes of 40 or 10 classes, y up.

modelnet40_h5         modelnet40_ply_hdf5_2048/{train,test}_files.txt, shape_names.txt,
ply_data_*.h5 with data (n, 2048, 3) and label (n, 1); 9,840 / 2,468
modelnet40_resampled  modelnet40_normal_resampled/modelnet40_{train,test}.txt,
modelnet10_resampled  modelnet40_shape_names.txt, CLASS/CLASS_0001.txt of 10,000 lines
x,y,z,nx,ny,nz; 9,843 / 2,468, and 3,991 / 908 of ten classes
"""

from collections.abc import Iterator
from pathlib import Path

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

_URL = "https://modelnet.cs.princeton.edu (research use only)"
_SPLITS = ("train", "test")


def open_h5(folder: Path) -> CloudSource:
    """Open ModelNet40 as points in HDF5.

    Raises:
        MissingDataError: the lists are not there.
    """
    root = folder / "modelnet40_ply_hdf5_2048"
    root = root if root.is_dir() else folder
    names = tuple(read_lines(find_file(root, "shape_names.txt", _URL)))
    lists = {split: read_lines(find_file(root, f"{split}_files.txt", _URL)) for split in _SPLITS}

    def read() -> Iterator[Cloud]:
        for split, files in lists.items():
            for file in files:  # the lists name the folder that their authors had
                path = find_file(root, Path(file).name, _URL)
                yield from _clouds_of_h5(path, split, names)

    info = DatasetInfo("modelnet40_h5", names, url=_URL)
    return CloudSource(info, {"train": 9840, "test": 2468}, read)


def _clouds_of_h5(path: Path, split: str, names: tuple[str, ...]) -> Iterator[Cloud]:
    with opened(path) as file:
        points = read_points(file, path, 3)
        labels = read_labels(file, path, "label", points.shape[:1], len(names))
    for number, label in enumerate(labels.tolist()):
        source_id = f"{split}/{path.stem}/{number:04d}"
        yield Cloud(source_id, names[label], points[number, :, :3].copy())


def open_resampled(folder: Path, num_classes: int) -> CloudSource:
    """Open ModelNet40 (or its ten classes) as points and normals in text.

    Raises:
        MissingDataError: the lists are not there.
    """
    root = folder / "modelnet40_normal_resampled"
    root = root if root.is_dir() else folder
    prefix = f"modelnet{num_classes}"
    names = tuple(read_lines(find_file(root, f"{prefix}_shape_names.txt", _URL)))
    lists = {split: read_lines(find_file(root, f"{prefix}_{split}.txt", _URL)) for split in _SPLITS}

    def read() -> Iterator[Cloud]:
        for split, shapes in lists.items():
            for shape in shapes:
                yield _resampled_cloud(root, split, shape, names)

    published = {"train": 9843, "test": 2468} if num_classes == 40 else {"train": 3991, "test": 908}
    return CloudSource(DatasetInfo(f"{prefix}_resampled", names, url=_URL), published, read)


def _resampled_cloud(root: Path, split: str, shape: str, names: tuple[str, ...]) -> Cloud:
    label = shape.rpartition("_")[0]
    if label not in names:
        raise BrokenDataError(
            f"{root}: shape {shape!r} of the {split} list is of no class of the list of names"
        )
    rows = read_table(find_file(root, f"{label}/{shape}.txt", _URL), 6)
    return Cloud(f"{split}/{shape}", label, rows[:, :3].copy(), normals=rows[:, 3:6].copy())
