"""ScanObjectNN: scans of real objects of 15 classes, y up. Which of its splits must be said.

scanobjectnn_obj_bg     h5_files/main_split/{training,test}_objectdataset.h5; 2,309 / 581
scanobjectnn_obj_only   h5_files/main_split_nobg/ likewise
scanobjectnn_pb_t50_rs  h5_files/main_split/*_objectdataset_augmentedrot_scale75.h5;
11,416 / 2,882
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from picpoint.data.dataset import DatasetInfo
from picpoint.datasets.hdf5 import opened, read_labels, read_points
from picpoint.datasets.source import CloudSource, find_file
from shards.clouds import Cloud

Variant = Literal["scanobjectnn_obj_bg", "scanobjectnn_obj_only", "scanobjectnn_pb_t50_rs"]

_URL = "https://hkust-vgd.github.io/scanobjectnn (research use only)"
_CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table"),
    *("bed", "pillow", "sink", "sofa", "toilet"),
)
_FILES: dict[Variant, str] = {
    "scanobjectnn_obj_bg": "main_split/{}_objectdataset.h5",
    "scanobjectnn_obj_only": "main_split_nobg/{}_objectdataset.h5",
    "scanobjectnn_pb_t50_rs": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
}
_WORDS = {"train": "training", "test": "test"}


def open_variant(folder: Path, variant: Variant) -> CloudSource:
    """Open one of the splits.

    Raises:
        MissingDataError: its files are not there.
    """
    root = folder / "h5_files"
    root = root if root.is_dir() else folder
    paths = {
        split: find_file(root, _FILES[variant].format(word), _URL) for split, word in _WORDS.items()
    }

    def read() -> Iterator[Cloud]:
        for split, path in paths.items():
            with opened(path) as file:
                points = read_points(file, path, 3)
                labels = read_labels(file, path, "label", points.shape[:1], len(_CLASSES))
            for number, label in enumerate(labels.tolist()):
                source_id = f"{split}/{number:05d}"
                yield Cloud(source_id, _CLASSES[label], points[number, :, :3].copy())

    counts = (11_416, 2_882) if variant == "scanobjectnn_pb_t50_rs" else (2_309, 581)
    info = DatasetInfo(variant, _CLASSES, url=_URL)
    return CloudSource(info, dict(zip(_WORDS, counts, strict=True)), read)
