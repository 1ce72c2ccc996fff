"""Samples of realistic size to time readers with, without a renderer: shaded ellipsoids.

20 views of 224 px as JPEG of some 8 KB each, 8,192 points with normals and colours: the sizes of
real renders of the demo's shapes, to a few percent.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from shards.codec import encode_picture
from shards.columns import shard_name
from shards.manifest import Manifest, load_manifest, publish_manifest, publish_part
from shards.schema import RigViews, Sample, SampleMeta
from shards.store import open_store
from shards.writer import write_shard

NUM_VIEWS = 20
NUM_POINTS = 8192
SIZE_PX = 224


def write_synthetic_set(folder: Path, num_samples: int, per_shard: int) -> Manifest:
    """Write a set of ellipsoids."""
    store = open_store(folder)
    starts = range(0, num_samples, per_shard)
    infos = [
        write_shard(
            store,
            shard_name(shard),
            [
                make_ellipsoid(number)
                for number in range(start, min(start + per_shard, num_samples))
            ],
        )
        for shard, start in enumerate(starts)
    ]
    publish_manifest(store, [publish_part(store, info) for info in infos])
    return load_manifest(store)


def make_ellipsoid(number: int) -> Sample:
    """Make one sample; no two are alike."""
    rng = np.random.default_rng(number)
    normals = rng.normal(size=(NUM_POINTS, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    matrices = rng.normal(size=(2, NUM_VIEWS, 4, 4)).astype(np.float32)
    pictures = {
        view: encode_picture(_picture(rng.uniform(0.3, 0.9, 2), rng)) for view in range(NUM_VIEWS)
    }
    return Sample(
        points=(normals * rng.uniform(0.3, 1, 3)).astype(np.float16),
        normals=normals.astype(np.float16),
        colors=rng.integers(0, 256, (NUM_POINTS, 3), dtype=np.uint8),
        view_matrices=matrices[0],
        projection_matrices=matrices[1],
        visibility=np.packbits(rng.random((NUM_VIEWS, NUM_POINTS)) < 0.5, axis=1),
        pictures=pictures,
        meta=SampleMeta(
            source_id=f"ellipsoids/{number}",
            label=f"class-{number % 5}",
            size_px=SIZE_PX,
            rigs=(RigViews("dodecahedron", NUM_VIEWS),),
            seed=0,
            center=(0.0, 0.0, 0.0),
            scale=1.0,
            num_faces=1,
            warnings=(),
        ),
    )


def _picture(
    radii: Float32[np.ndarray, "2"], rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a shaded, striped ellipse on white."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIZE_PX)] * 2)
    inside = 1 - (x / radii[0]) ** 2 - (y / radii[1]) ** 2
    shade = np.sqrt(np.clip(inside, 0, None))
    stripes = 0.8 + 0.2 * np.sign(np.sin(x * rng.uniform(8, 25) + y * rng.uniform(8, 25)))
    color = rng.uniform(60, 250, 3) * (shade * stripes)[..., None]
    return np.where(inside[..., None] > 0, color, 255).astype(np.uint8)
