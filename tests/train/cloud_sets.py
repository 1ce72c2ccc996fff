"""Small labelled data sets: solids that a network can tell apart, and objects of two parts.

Not in conftest.py, so that other folders' tests can import it by a name of its own.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from picpoint.data.dataset import DatasetInfo, write_info
from shards.cloud_sets import write_clouds
from shards.clouds import Cloud
from shards.columns import shard_name
from shards.manifest import publish_manifest, publish_part
from shards.store import LocalStore

CLASSES = ("ball", "pole", "plate")
NUM_POINTS = 80
# Of each split and class.
COUNTS = {"train": 8, "test": 4}


def solid(label: str, rng: np.random.Generator) -> np.ndarray:
    """Points of a noisy solid, (NUM_POINTS, 3) float32."""
    points = rng.normal(size=(NUM_POINTS, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    flatten = {"ball": (1, 1, 1), "pole": (0.1, 1, 0.1), "plate": (1, 0.1, 1)}[label]
    noise = rng.normal(scale=0.02, size=points.shape)
    return (5 * (points * flatten + noise) + 3).astype(np.float32)


def clouds() -> Iterator[Cloud]:
    """Clouds of all splits; points above the middle are the second part of their object."""
    for split, count in COUNTS.items():
        for number, label in enumerate(CLASSES):
            for copy in range(count):
                rng = np.random.default_rng([list(COUNTS).index(split), number, copy])
                points = solid(label, rng)
                above = points[:, 1] > np.median(points[:, 1])
                yield Cloud(
                    f"{split}/{label}-{copy}",
                    label,
                    points,
                    normals=np.tile(np.float32([0, 1, 0]), (NUM_POINTS, 1)),
                    point_labels=(2 * number + above).astype(np.uint8),
                )


INFO = DatasetInfo(
    name="solids",
    class_names=CLASSES,
    part_names=tuple(f"{label} {part}" for label in CLASSES for part in ("low", "high")),
    parts_of_class={label: (2 * n, 2 * n + 2) for n, label in enumerate(CLASSES)},
)


def write_set(folder: Path, content: list[Cloud], info: DatasetInfo = INFO) -> Path:
    """Write clouds as a data set of two shards."""
    store, half = LocalStore(folder), len(content) // 2
    entries = [
        publish_part(store, write_clouds(store, shard_name(number), part))
        for number, part in enumerate([content[:half], content[half:]])
    ]
    publish_manifest(store, entries, kind="clouds")
    write_info(store, info)
    return folder


THINGS = ("floor", "red", "blue")
SCENES_INFO = DatasetInfo(name="rooms", class_names=(), part_names=THINGS)


def scenes() -> Iterator[Cloud]:
    """Blocks of rooms of two areas: a floor, and above it red things and blue ones."""
    for area, num_rooms in {"Area_1": 4, "Area_5": 2}.items():
        for room in range(num_rooms):
            for block in range(4):
                rng = np.random.default_rng([int(area[-1]), room, block])
                points = rng.uniform(-0.5, 0.5, (NUM_POINTS, 3)).astype(np.float32)
                points[:, 1] += 0.7
                labels = rng.integers(0, 3, NUM_POINTS).astype(np.uint8)
                points[labels == 0, 1] = 0
                colors = np.array([[120, 120, 120], [250, 5, 5], [5, 5, 250]], np.uint8)
                yield Cloud(
                    f"{area}/room_{room}/{block:04d}",
                    "",
                    points,
                    colors=colors[labels],
                    point_labels=labels,
                    places=np.clip(points * [0.1, 0.3, 0.1] + [0.5, 0, 0.5], 0, 1).astype("f4"),
                )


def rooms() -> Iterator[Cloud]:
    """Whole rooms of two areas; every tenth point stands also for a raw point of another label."""
    for area, num_rooms in {"Area_1": 6, "Area_5": 2}.items():
        for room in range(num_rooms):
            rng = np.random.default_rng([int(area[-1]), room])
            points = rng.uniform(0, 3, (200 + 20 * room, 3)).astype(np.float32)
            labels = rng.integers(0, 3, len(points)).astype(np.uint8)
            points[labels == 0, 1] = 0
            colors = np.array([[120, 120, 120], [250, 5, 5], [5, 5, 250]], np.uint8)
            counts = 3 * np.eye(3, dtype=np.uint32)[labels]
            counts[::10] += np.eye(3, dtype=np.uint32)[(labels[::10] + 1) % 3]
            yield Cloud(
                f"{area}/room_{room}",
                "",
                points,
                colors=colors[labels],
                point_labels=labels,
                places=points / 3,
                label_counts=counts,
            )
