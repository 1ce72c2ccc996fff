"""Writes small data sets in the exact layouts in which the field has them."""

import json
from pathlib import Path

import h5py
import numpy as np

from picpoint.datasets.s3dis import THINGS

NUM_POINTS = 2048


def points_of(number: int, num_points: int = NUM_POINTS) -> np.ndarray:
    """A cloud of its own for every number, float32."""
    return np.random.default_rng(number).normal(size=(num_points, 3)).astype(np.float32)


def write_modelnet_h5(folder: Path) -> None:
    """Two training files of three clouds, one test file of two; classes 0 and 1 of three."""
    root = folder / "modelnet40_ply_hdf5_2048"
    root.mkdir()
    (root / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    numbers = {"train0": [0, 1, 2], "train1": [3, 4, 5], "test0": [6, 7]}
    for name, clouds in numbers.items():
        with h5py.File(root / f"ply_data_{name}.h5", "w") as file:
            file["data"] = np.stack([points_of(number) for number in clouds])
            file["label"] = np.array([[number % 2] for number in clouds], np.uint8)
    authors = "data/modelnet40_ply_hdf5_2048"
    (root / "train_files.txt").write_text(
        f"{authors}/ply_data_train0.h5\n{authors}/ply_data_train1.h5\n"
    )
    (root / "test_files.txt").write_text(f"{authors}/ply_data_test0.h5\n")


def write_modelnet_resampled(folder: Path) -> None:
    root = folder / "modelnet40_normal_resampled"
    names = ["night_stand", "sofa"]
    shapes = {"train": ["night_stand_0001", "sofa_0001"], "test": ["sofa_0002"]}
    for name in names:
        (root / name).mkdir(parents=True)
    (root / "modelnet40_shape_names.txt").write_text("\n".join(names) + "\n")
    for split, listed in shapes.items():
        (root / f"modelnet40_{split}.txt").write_text("\n".join(listed) + "\n")
        for number, shape in enumerate(listed):
            rows = np.hstack([points_of(number, 50), points_of(number + 100, 50)])
            text = "\n".join(",".join(f"{value:.6f}" for value in row) for row in rows)
            (root / shape.rpartition("_")[0] / f"{shape}.txt").write_text(text + "\n")


def write_scanobjectnn(folder: Path, inner: str = "main_split", suffix: str = "") -> None:
    root = folder / "h5_files" / inner
    root.mkdir(parents=True)
    for word, labels in (("training", [0, 14, 3]), ("test", [14, 3])):
        with h5py.File(root / f"{word}_objectdataset{suffix}.h5", "w") as file:
            clouds = np.stack([points_of(label + len(word)) for label in labels])
            file["data"], file["label"] = clouds, np.array(labels, np.int32)
            file["mask"] = np.zeros(clouds.shape[:2], np.int32)


def write_shapenetpart_h5(folder: Path) -> None:
    root = folder / "hdf5_data"
    root.mkdir()
    for split, labels in (("train", [0, 15, 2]), ("val", [2]), ("test", [0, 2, 15])):
        first = {0: 0, 2: 6, 15: 47}
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = np.stack([points_of(label) for label in labels])
            file["label"] = np.array(labels, np.uint8)[:, None]
            file["pid"] = np.stack(
                [first[label] + np.arange(NUM_POINTS) % 2 for label in labels]
            ).astype(np.uint8)
        (root / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")


def write_shapenetpart_text(folder: Path) -> None:
    root = folder / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (root / "train_test_split").mkdir(parents=True)
    for synset, first in (("02954340", 6), ("04379243", 47)):
        (root / synset).mkdir()
        for split in ("train", "val", "test"):
            rows = np.hstack([points_of(first, 30), points_of(first + 1, 30)])
            parts = first + np.arange(30) % 2
            text = "\n".join(
                " ".join(f"{value:.6f}" for value in (*row, part))
                for row, part in zip(rows, parts, strict=True)
            )
            (root / synset / f"{split}_shape.txt").write_text(text + "\n")
    for split in ("train", "val", "test"):
        listed = [f"shape_data/{synset}/{split}_shape" for synset in ("02954340", "04379243")]
        path = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(listed))


# Blocks of each room, in the order of the files.
S3DIS_ROOMS = {"Area_1_office_1": 2, "Area_5_hallway_6": 1, "Area_1_WC_2": 1}


def write_s3dis_blocks(folder: Path) -> None:
    """Two files of two blocks; rooms of 4 x 5 x 3 metres."""
    root = folder / "indoor3d_sem_seg_hdf5_data"
    root.mkdir()
    lines = [room for room, count in S3DIS_ROOMS.items() for _ in range(count)]
    (root / "room_filelist.txt").write_text("\n".join(lines) + "\n")
    authors = "indoor3d_sem_seg_hdf5_data"
    (root / "all_files.txt").write_text(
        f"{authors}/ply_data_all_0.h5\n{authors}/ply_data_all_1.h5\n"
    )
    for number in range(2):
        rng = np.random.default_rng(number)
        places = rng.random((2, 4096, 3))
        corner = np.array([1.5, 1.5, 0]) if number else np.array([0.5, 0.5, 0])
        data = np.concatenate([places * [4, 5, 3] - corner, rng.random((2, 4096, 3)), places], -1)
        with h5py.File(root / f"ply_data_all_{number}.h5", "w") as file:
            file["data"] = data.astype(np.float32)
            file["label"] = rng.integers(0, 13, (2, 4096), dtype=np.uint8)


def write_s3dis_rooms(folder: Path) -> dict[str, np.ndarray]:
    """Three rooms of 4 x 5 x 3 metres, 2,000 points each; gives their rows."""
    root = folder / "stanford_indoor3d"
    root.mkdir(parents=True)
    rooms = {}
    for number, room in enumerate(S3DIS_ROOMS):
        rng = np.random.default_rng(number)
        labels = rng.integers(0, 13, (2000, 1))
        colors = rng.integers(0, 256, (2000, 3))
        rooms[room] = np.hstack([rng.random((2000, 3)) * [4, 5, 3], colors, labels])
        np.save(root / f"{room}.npy", rooms[room].astype(np.float32))
    return rooms


def write_s3dis_text(folder: Path, rooms: dict[str, np.ndarray]) -> Path:
    """Write rooms as the data set has them, in millimetres, shifted; gives the folder of areas."""
    root = folder / "Stanford3dDataset_v1.2_Aligned_Version"
    for room, rows in rooms.items():
        area, name = room[:6], room[7:]
        things = root / area / name / "Annotations"
        things.mkdir(parents=True)
        for label in np.unique(rows[:, 6]).astype(int):
            lines = [
                f"{x - 20:.3f} {y + 5:.3f} {z:.3f} {r:.0f} {g:.0f} {b:.0f}"
                for x, y, z, r, g, b, _ in rows[rows[:, 6] == label]
            ]
            half = len(lines) // 2
            for number, part in enumerate((lines[:half], lines[half:]), 1):
                (things / f"{THINGS[label]}_{number}.txt").write_text("\n".join(part) + "\n")
        (root / area / ".DS_Store").write_bytes(b"\0")
        (things / "Icon\r").write_bytes(b"")
    return root
