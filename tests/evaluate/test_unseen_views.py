"""Cameras that pre-training never used are told apart, and what is learnt by heart shows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from picpoint.data.config import DataConfig
from picpoint.data.views import choose_views, stored_views
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoderConfig
from picpoint.evaluate.encode import EncodeConfig, encode_run
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.probe import ProbeConfig
from picpoint.evaluate.results import format_table, load_results, summarise, write_results
from picpoint.evaluate.seed import evaluate_seed
from picpoint.evaluate.unseen_views import OtherPictures, compare_views
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.train.pretrain import pretrain
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig
from shards.reader import ShardReader

CPU = torch.device("cpu")
NUM_SHAPES, NUM_HELD_OUT = 30, 6


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def encoded(seen_noise: float, seed: int = 0) -> EncodedShapes:
    """Shapes whose pictures, of three cameras, are their own embedding and noise."""
    rng = np.random.default_rng(seed)
    clouds = unit(rng.normal(size=(NUM_SHAPES, 16)))
    noise = seen_noise * rng.normal(size=(NUM_SHAPES, 3, 16))
    return EncodedShapes(
        keys=tuple(f"{i:032x}" for i in range(NUM_SHAPES)),
        class_names=("bed", "chair", "table"),
        labels=np.arange(NUM_SHAPES) % 3,
        features=rng.normal(size=(NUM_SHAPES, 8)).astype(np.float32),
        shape_embeddings=clouds,
        picture_embeddings=unit(clouds[:, None] + noise),
        held_out=np.arange(NUM_SHAPES) % 5 == 0,
    )


def by_heart(shapes: EncodedShapes) -> np.ndarray:
    """Pictures of two other cameras: of trained shapes right, of held-out ones each its next's."""
    own = shapes.shape_embeddings.copy()
    own[shapes.held_out] = np.roll(own[shapes.held_out], 1, axis=0)
    return np.repeat(own[:, None], 2, axis=1)


def test_each_group_is_measured_with_each_kind_of_camera() -> None:
    shapes, control = encoded(0.0), encoded(100.0, seed=1)
    others = OtherPictures(np.array([True, True, True]), by_heart(shapes), by_heart(control))
    views = compare_views(shapes, control, others)
    assert (views.num_seen, views.num_unseen, views.num_shapes) == (3, 2, NUM_HELD_OUT)
    held_out, trained = views.pretrained["held_out"], views.pretrained["trained"]
    assert (held_out.seen, held_out.unseen) == (1.0, 0.0)
    assert (held_out.seen_back, held_out.unseen_back) == (1.0, 0.0)
    assert (trained.seen, trained.unseen) == (1.0, 1.0)
    assert views.random_init["held_out"].seen < 0.7  # noise: chance is a sixth


def test_a_usual_camera_that_was_not_used_is_not_counted_as_seen() -> None:
    shapes = encoded(0.0)
    wrong = shapes.picture_embeddings.copy()
    wrong[:, 2] = wrong[::-1, 2]  # of the third camera alone
    shapes = dataclasses.replace(shapes, picture_embeddings=wrong)
    pictures = by_heart(shapes)
    seen = np.array([True, True, False])
    views = compare_views(shapes, shapes, OtherPictures(seen, pictures, pictures))
    assert views.num_seen == 2
    assert views.pretrained["held_out"].seen == 1.0


def test_results_hold_it_and_results_of_old_do_not(tmp_path: Path) -> None:
    shapes, control = encoded(0.1), encoded(1.0, seed=1)
    others = OtherPictures(np.ones(3, bool), by_heart(shapes), by_heart(control))
    probe = ProbeConfig(num_repeats=1, penalties=(1e-3,))
    for number, kept in enumerate([others, None]):
        seed = evaluate_seed(0, shapes, control, probe, kept)
        path = tmp_path / f"{number}.json"
        write_results(summarise([seed], {}, {}, "c", {}), path)
        read = load_results(path)
        assert read.seeds[0].views == seed.views
        assert ("of pre-training / from 2 others" in format_table(read)) == (number == 0)
    text = (tmp_path / "1.json").read_text()
    (tmp_path / "old.json").write_text(text.replace('"unseen_views": null,', ""))
    assert load_results(tmp_path / "old.json").seeds[0].views is None


@pytest.fixture(scope="module")
def run(shard_set: Path) -> PretrainConfig:
    """A run with six of the twenty cameras."""
    return PretrainConfig(
        data=DataConfig(str(shard_set), num_points=48, correspondences=8, views=6),
        point_encoder=DgcnnConfig(widths=(8, 8), pooled_width=16, num_neighbours=4),
        image_encoder=ImageEncoderConfig(input_px=64, precision="float32"),
        heads=ProjectionConfig(latent_width=16, hidden_width=16, pose_width=8),
        loss=LossConfig(),
        optim=OptimConfig(lr=1e-2),
        global_batch=6,
        ghost_batch=3,
        epochs=1,
        precision="fp32",
    )


def test_a_run_is_asked_with_cameras_that_it_never_used(
    run: PretrainConfig, tmp_path: Path
) -> None:
    list(pretrain(run, tmp_path, CPU, resume="never"))
    usual = encode_run(run, tmp_path, EncodeConfig(views=2, unseen_views=0), CPU)
    assert usual.others is None
    both = encode_run(run, tmp_path, EncodeConfig(views=8, unseen_views=3), CPU)
    assert both.others is not None
    assert both.others.seen.tolist() == [True] * 6 + [False] * 2
    assert both.others.pretrained.shape == both.others.random_init.shape == (18, 3, 16)
    # None of them is one of the six; asked for all, a run that used all has none left.
    stored = stored_views(ShardReader(run.data.shards))
    all_views = encode_run(run, tmp_path, EncodeConfig(views=0, unseen_views=14), CPU)
    used = choose_views(stored, "all", 6)
    assert all_views.others is not None
    order = choose_views(stored, "all", 0).tolist()
    unused = [order.index(view) for view in range(20) if view not in used]
    mine = np.sort(all_views.others.pretrained.reshape(18, -1), axis=1)
    same = np.sort(all_views.pretrained.picture_embeddings[:, unused].reshape(18, -1), axis=1)
    np.testing.assert_allclose(mine, same, atol=1e-5)
    # What else is measured does not change with it.
    again = encode_run(run, tmp_path, EncodeConfig(views=2, unseen_views=5), CPU)
    np.testing.assert_allclose(
        again.pretrained.picture_embeddings, usual.pretrained.picture_embeddings, atol=1e-6
    )
