"""One render of several rigs: a run that names one of them is a run on that rig rendered alone."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import picpoint.evaluate.encode as encode
from picpoint.batch import PairBatch
from picpoint.data.config import DataConfig
from picpoint.data.pairs import training_batches
from picpoint.data.views import NotStoredError
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.evaluate.encode import EncodeConfig
from picpoint.geometry.cameras import world_to_pixel
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.meshes import Material, Mesh
from picpoint.train.image_source import Teacher, live_source
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig
from shards.columns import shard_name
from shards.manifest import publish_manifest, publish_part
from shards.plan import ReadPlan
from shards.reader import ShardReader
from shards.store import open_store
from shards.writer import write_shard

RING = "ring_5_20deg"
CPU = torch.device("cpu")
NUM_SHAPES = 6

RenderRigs = Callable[..., Path]


def box(number: int) -> Mesh:
    """Build a box of extents of its own, open on one side."""
    extents = np.random.default_rng(number).uniform(0.3, 1.0, 3)
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * extents
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4)]
    faces = np.array([face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))], np.int32)
    return Mesh(
        vertices=corners.astype(np.float32),
        faces=faces,
        face_material=np.repeat(np.arange(5, dtype=np.int32), 2),
        materials=tuple(Material((0.2 * i, 0.5, 1 - 0.2 * i)) for i in range(5)),
        uv=np.zeros((len(faces), 3, 2), np.float32),
    )


@pytest.fixture(scope="module")
def render_rigs(tmp_path_factory: pytest.TempPathFactory) -> RenderRigs:
    """The function that renders six boxes from some rigs into a shard set."""

    def render(*names: str, **rig: object) -> Path:
        config = CaptureConfig(num_points=96, rig=RigConfig(names, size_px=32, **rig))
        samples = [capture(box(n), f"box/{n}", "box", config) for n in range(NUM_SHAPES)]
        folder = tmp_path_factory.mktemp("rendered")
        store = open_store(folder)
        info = write_shard(store, shard_name(0), samples)
        publish_manifest(store, [publish_part(store, info)])
        return folder

    return render


@pytest.fixture(scope="module")
def superset(render_rigs: RenderRigs) -> Path:
    return render_rigs("octahedron", RING, "fibonacci_7")


@pytest.fixture(scope="module")
def ring_alone(render_rigs: RenderRigs) -> Path:
    return render_rigs(RING)


def batches(shards: Path, **changes: object) -> list[PairBatch]:
    data = DataConfig(str(shards), num_points=64, correspondences=16, **changes)
    plan = ReadPlan("digest", NUM_SHAPES, global_batch=3, seed=1, remainder="drop_last")
    stream = training_batches(
        ShardReader(shards), np.arange(NUM_SHAPES), plan, slice(0, 3), data, 64, samples_seen=0
    )
    return list(islice(stream, 6))


@pytest.mark.parametrize("views", [0, 3])
def test_batches_of_a_named_rig_are_those_of_that_rig_rendered_alone(
    superset: Path, ring_alone: Path, views: int
) -> None:
    named = batches(superset, rig=RING, views=views, views_per_step=2)
    alone = batches(ring_alone, views=views, views_per_step=2)
    for mine, other in zip(named, alone, strict=True):
        for field in dataclasses.fields(PairBatch):
            a, b = getattr(mine, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_cameras_of_a_batch_are_the_named_rig_s_and_pair_points_with_what_they_show(
    render_rigs: RenderRigs,
) -> None:
    shards = render_rigs("icosahedron", "fibonacci_5", projection="orthographic")
    lens = build_cameras(RigConfig(("fibonacci_5",), "orthographic")).projection_matrices[0]
    for batch in batches(shards, rig="fibonacci_5", views_per_step=5):
        np.testing.assert_array_equal(
            batch.projection_matrices.numpy(), np.broadcast_to(lens, (3, 5, 4, 4))
        )
        for row in range(3):
            u_px, v_px, _ = world_to_pixel(
                batch.points[row][None],
                batch.view_matrices[row],
                batch.projection_matrices[row],
                32,
            )
            where = torch.stack([u_px, v_px], dim=-1)
            chosen = where.gather(1, batch.point_index[row][..., None].expand(-1, -1, 2))
            mask = batch.correspondence_mask[row]
            assert mask.any()
            torch.testing.assert_close(chosen[mask], batch.pixels[row][mask], atol=2e-3, rtol=0)
            # A point that is seen lies on the box: its pixel is not background.
            for view in range(5):
                hit = batch.pixels[row, view][mask[view]].long()
                shown = batch.pictures[row, view][:, hit[:, 1], hit[:, 0]].float()
                assert (shown.mean(dim=0) < 250).float().mean() > 0.95


def test_a_set_whose_shapes_have_other_views_than_each_other_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    rigs = [RigConfig((name,), size_px=32) for name in ("octahedron", RING)]
    infos = [
        write_shard(
            store,
            shard_name(number),
            [capture(box(number), f"box/{number}", "box", CaptureConfig(num_points=96, rig=rig))],
        )
        for number, rig in enumerate(rigs)
    ]
    publish_manifest(store, [publish_part(store, info) for info in infos])
    plan = ReadPlan("digest", 2, global_batch=2, seed=1, remainder="drop_last")
    data = DataConfig(str(tmp_path), num_points=64, views=5)
    stream = training_batches(
        ShardReader(tmp_path), np.arange(2), plan, slice(0, 2), data, 64, samples_seen=0
    )
    with pytest.raises(NotStoredError, match=r"box/1: has the views of ring.*same rigs"):
        next(stream)


def test_an_evaluation_shows_the_pictures_of_the_run_s_rig(
    superset: Path, ring_alone: Path
) -> None:
    look = ImageEncoderConfig(input_px=32, precision="float32")
    encoder = ImageEncoder(look)
    teacher = Teacher(live_source(encoder), encoder, None)

    def pictures(shards: Path, rig: str) -> torch.Tensor:
        run = PretrainConfig(
            data=DataConfig(str(shards), num_points=48, rig=rig),
            point_encoder=DgcnnConfig(),
            image_encoder=look,
            heads=ProjectionConfig(),
            loss=LossConfig(),
            optim=OptimConfig(),
        )
        reader = ShardReader(shards)
        everything = np.arange(reader.manifest.num_samples)
        config = EncodeConfig(views=2, unseen_views=0)
        views = encode._choose_views(run, reader, config)
        shapes = encode._read_shapes(run, reader, everything, teacher, config, views, CPU)
        return shapes.pictures

    alone = pictures(ring_alone, "all")
    assert torch.equal(pictures(superset, RING), alone)
    assert not torch.allclose(pictures(superset, "all"), alone, atol=1e-2)
