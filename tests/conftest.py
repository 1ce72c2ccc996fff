"""Shared set-up of the tests: shapes of tensors are checked while pytest runs."""

import dataclasses
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook(["picpoint", "shards"], "beartype.beartype")

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from picpoint.geometry.cameras import world_to_pixel
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.ops.farthest import farthest_order
from shards.codec import encode_picture
from shards.columns import shard_name
from shards.manifest import publish_manifest, publish_part
from shards.reader import ShardReader
from shards.schema import RigViews, Sample, SampleMeta
from shards.store import open_store
from shards.writer import write_shard

# On a busy machine one example may take long; that says nothing of the code.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

CLASSES = ("ball", "box", "rod")
SHAPES_PER_CLASS = 6


def make_shape(label: str, number: int, num_points: int = 96, size_px: int = 64) -> Sample:
    """A coloured ellipsoid whose pictures are its visible points drawn as dots.

    The near half of the points is visible: a rule, not a render, so that no renderer is needed.
    """
    rng = np.random.default_rng([CLASSES.index(label), number])
    radii = {"ball": (0.9, 0.9, 0.9), "box": (0.9, 0.5, 0.5), "rod": (0.2, 0.95, 0.2)}[label]
    directions = rng.normal(size=(num_points, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = (directions * radii * rng.uniform(0.8, 1.0, 3)).astype(np.float16)
    points = points[farthest_order(points.astype(np.float32))]
    colors = rng.integers(40, 216, (num_points, 3), dtype=np.uint8)
    cameras = build_cameras(RigConfig(size_px=size_px))
    u_px, v_px, depth = world_to_pixel(
        points[None].astype(np.float32), cameras.view_matrices, cameras.projection_matrices, size_px
    )
    visible = depth < np.median(depth, axis=1, keepdims=True)
    pictures = {}
    for view in range(len(depth)):
        picture = np.full((size_px, size_px, 3), 255, np.uint8)
        seen = visible[view]
        picture[v_px[view, seen].astype(int), u_px[view, seen].astype(int)] = colors[seen]
        pictures[view] = encode_picture(picture, 94)
    return Sample(
        points=points,
        normals=(directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float16),
        colors=colors,
        view_matrices=cameras.view_matrices,
        projection_matrices=cameras.projection_matrices,
        visibility=np.packbits(visible, axis=1),
        pictures=pictures,
        meta=SampleMeta(
            source_id=f"{label}/{number}",
            label=label,
            size_px=size_px,
            rigs=(RigViews("dodecahedron", 20),),
            seed=0,
            center=(0.0, 0.0, 0.0),
            scale=1.0,
            num_faces=1,
            warnings=(),
        ),
    )


def write_shapes(folder: Path, samples: list[Sample], per_shard: int = 7) -> Path:
    store = open_store(folder)
    starts = range(0, len(samples), per_shard)
    infos = [
        write_shard(store, shard_name(number), samples[start : start + per_shard])
        for number, start in enumerate(starts)
    ]
    publish_manifest(store, [publish_part(store, info) for info in infos])
    return folder


@pytest.fixture(scope="session")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 shapes of 3 classes, 96 points, 20 views at 64 px, in 3 shards. Read only."""
    samples = [make_shape(label, n) for label in CLASSES for n in range(SHAPES_PER_CLASS)]
    return write_shapes(tmp_path_factory.mktemp("shapes"), samples)


@pytest.fixture
def write_samples() -> Callable[[Path, list[Sample]], Path]:
    """Writes samples as a shard set into a folder."""
    return write_shapes


@pytest.fixture
def damage_sample() -> Callable[[Path, Path, int], Path]:
    """Copies a shard set into a folder and flips a byte in the points of one sample."""

    def damage(shards: Path, folder: Path, sample_index: int) -> Path:
        damaged = folder / "damaged"
        shutil.copytree(shards, damaged)
        manifest = ShardReader(damaged).manifest
        span = next(
            member for member in manifest.row(sample_index).members if member.name == "points.npy"
        )
        shard = damaged / manifest.shard_of(sample_index).name
        content = bytearray(shard.read_bytes())
        content[span.offset + span.length - 1] ^= 1
        shard.chmod(0o644)
        shard.write_bytes(content)
        return damaged

    return damage


@pytest.fixture
def write_other_shapes() -> Callable[[Path], Path]:
    """Writes a shard set with the keys and labels of `shard_set` and one other cloud."""

    def write(folder: Path) -> Path:
        samples = [make_shape(label, n) for label in CLASSES for n in range(SHAPES_PER_CLASS)]
        samples[3] = dataclasses.replace(samples[3], points=samples[3].points[::-1].copy())
        return write_shapes(folder, samples)

    return write
