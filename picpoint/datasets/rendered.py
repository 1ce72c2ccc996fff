"""A rendered shard set as a labelled data set: its labelled shapes, and the folds of pre-training.

Split `train` holds what pre-training may see, `test` the held-out fold (picpoint/data/split.py), so
that a task is measured on shapes that neither it nor its encoder has seen.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from picpoint.data.dataset import DatasetInfo
from picpoint.data.split import HoldoutConfig, held_out
from picpoint.datasets.source import BrokenDataError, CloudSource
from shards.clouds import Cloud
from shards.manifest import load_manifest
from shards.reader import Request, ShardReader
from shards.schema import NORMALS


def open_rendered(shards: str, holdout: HoldoutConfig) -> CloudSource:
    """Open a shard set.

    Args:
        shards: its folder or URL.
        holdout: which fold is the test split; the same as of the pre-training that is measured.

    Raises:
        BrokenDataError: fewer than two classes.
        ShardError: it cannot be read.
    """
    manifest = load_manifest(shards)
    (labels,) = manifest.read_texts("label")
    is_test = held_out(manifest, holdout)
    names = tuple(sorted(set(labels) - {""}))
    if len(names) < 2:
        raise BrokenDataError(f"{shards}: {len(names)} classes; labels of two are needed at least")

    def read() -> Iterator[Cloud]:
        reader = ShardReader(manifest, members=(NORMALS,))
        for split, mask in (("train", ~is_test), ("test", is_test)):
            rows = [row for row in np.flatnonzero(mask).tolist() if labels[row]]
            for sample in reader.stream(map(Request, rows)):
                assert sample is not None  # the reader raises on damage
                yield Cloud(
                    f"{split}/{sample.source_id}",
                    sample.meta.label,
                    sample.points.astype(np.float32),
                    normals=sample.normals.astype(np.float32),
                )

    name = f"rendered:{Path(shards).name}" if "://" not in shards else f"rendered:{shards}"
    return CloudSource(DatasetInfo(name, names), {}, read)
