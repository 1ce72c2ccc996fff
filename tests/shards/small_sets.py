"""Small real samples and sets: 61 points, 3 views of 16 px, 3 shards of 4 samples.

Not in conftest.py, so that child processes can import them by a name that no other folder has.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.codec import encode_picture
from shards.manifest import (
    Manifest,
    Reject,
    ShardInfo,
    load_manifest,
    publish_manifest,
    publish_part,
    shard_name,
)
from shards.schema import RigViews, Sample, SampleMeta
from shards.store import LocalStore, Store
from shards.writer import write_shard

NUM_POINTS = 61  # not a multiple of 8: the last byte of a visibility row has spare bits
NUM_VIEWS = 3
SIZE_PX = 16


def make_sample(number: int) -> Sample:
    rng = np.random.default_rng(number)
    directions = rng.normal(size=(NUM_POINTS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    matrices = rng.normal(size=(2, NUM_VIEWS, 4, 4)).astype(np.float32)
    return Sample(
        points=(directions * rng.uniform(0, 1, (NUM_POINTS, 1))).astype(np.float16),
        normals=directions.astype(np.float16),
        colors=rng.integers(0, 256, (NUM_POINTS, 3), dtype=np.uint8),
        view_matrices=matrices[0],
        projection_matrices=matrices[1],
        visibility=np.packbits(rng.random((NUM_VIEWS, NUM_POINTS)) < 0.5, axis=1),
        pictures={
            view: encode_picture(rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
            for view in range(NUM_VIEWS)
        },
        meta=SampleMeta(
            source_id=f"set/shape-{number}",
            label=("chair", "table")[number % 2],
            size_px=SIZE_PX,
            rigs=(RigViews("ring_2_30deg", 2), RigViews("fibonacci_1", 1)),
            seed=number,
            center=(0.5, -1.0, 2.0),
            scale=0.25,
            num_faces=12,
            warnings=("flipped_faces",) if number % 2 else (),
        ),
    )


def publish_set(store: Store, infos: Sequence[ShardInfo]) -> Manifest:
    """Tell of shards that were written, and make them a set."""
    publish_manifest(store, [publish_part(store, info) for info in infos])
    return load_manifest(store)


def make_set(folder: Path, num_shards: int = 3, per_shard: int = 4) -> Manifest:
    """Write a set; the second shard lacks a shape that was rejected."""
    store = LocalStore(folder)
    infos = [
        write_shard(
            store,
            shard_name(shard),
            [make_sample(shard * per_shard + number) for number in range(per_shard)],
        )
        for shard in range(num_shards)
    ]
    at = min(1, num_shards - 1)
    infos[at] = replace(infos[at], rejects=(Reject("set/broken", "no_faces", "it has no faces"),))
    return publish_set(store, infos)


def keys_of(manifest: Manifest) -> tuple[str, ...]:
    """The key of every sample."""
    return manifest.read_texts("key")[0]


def shards_of(manifest: Manifest) -> list[ShardInfo]:
    """All shards with their samples."""
    return [manifest.parts[number] for number in range(len(manifest.shards))]
