"""Encoding of a real, tiny run; the oracles take their own way from the shards to the features."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import picpoint.evaluate.encode as encode
from cluster.app import main
from picpoint.data.config import DataConfig
from picpoint.data.split import split_shapes
from picpoint.data.views import choose_views, stored_views
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.evaluate.encode import EncodeConfig, EncodedPair, encode_run
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.model import PretrainModel
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.train.calibrate import deal_to_ghosts
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.train.pretrain import pretrain
from picpoint.train.settings import PretrainConfig, plan_run
from picpoint.train.state import OptimConfig, initial_state
from shards.codec import decode_picture
from shards.reader import Request, ShardReader

CPU = torch.device("cpu")
CONFIG = EncodeConfig(views=2, batch_size=5)


@pytest.fixture(scope="module")
def run(shard_set: Path) -> PretrainConfig:
    """A pre-training run: 14 shapes to train on in ghost batches of 3, four are held out."""
    return PretrainConfig(
        data=DataConfig(str(shard_set), num_points=48, correspondences=8),
        point_encoder=DgcnnConfig(widths=(8, 8), pooled_width=16, num_neighbours=4),
        image_encoder=ImageEncoderConfig(input_px=64, precision="float32"),
        heads=ProjectionConfig(latent_width=16, hidden_width=16, pose_width=8),
        loss=LossConfig(),
        optim=OptimConfig(lr=1e-2),
        global_batch=6,
        ghost_batch=3,
        epochs=3,
        precision="fp32",
        seed=5,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def run_dir(run: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    list(pretrain(run, folder, CPU, resume="never"))
    return folder


@pytest.fixture(scope="module")
def encoded(run: PretrainConfig, run_dir: Path) -> EncodedPair:
    return encode_run(run, run_dir, CONFIG, CPU)


@pytest.fixture
def copied(run_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_dir, tmp_path / "copy")


def build(run: PretrainConfig, trained_in: Path | None) -> PretrainModel:
    """The network as a checkpoint has it, or as the seed makes it."""
    image = ImageEncoder(run.image_encoder)
    widths = (image.local_width, image.pooled_width)
    model = initial_state(run.model, run.optim, widths, run.seed, CPU).model
    if trained_in is not None:
        checkpoint, _ = newest_checkpoint(trained_in / "checkpoints")
        assert checkpoint is not None
        model.load_state_dict(checkpoint.state["model"])
    return model


def clouds(run: PretrainConfig) -> torch.Tensor:
    """All clouds, as they lie in the shards."""
    reader = ShardReader(run.data.shards)
    samples = [reader.read(Request(row)) for row in range(reader.manifest.num_samples)]
    return torch.stack([torch.from_numpy(s.points[:48].astype(np.float32)) for s in samples])


def pictures(run: PretrainConfig) -> torch.Tensor:
    """The pictures of all shapes from two far cameras."""
    reader = ShardReader(run.data.shards)
    views = choose_views(stored_views(reader), "all", 2).tolist()
    return torch.stack(
        [
            torch.stack(
                [torch.from_numpy(decode_picture(sample.pictures[v])).movedim(2, 0) for v in views]
            )
            for row in range(reader.manifest.num_samples)
            for sample in [reader.read(Request(row, tuple(views)))]
        ]
    )


@torch.no_grad()
def oracle(run: PretrainConfig, model: PretrainModel) -> dict[str, np.ndarray]:
    """Encode all shapes at once, with the statistics of the pre-training shapes alone."""
    points = clouds(run)
    image = ImageEncoder(run.image_encoder)(pictures(run))
    _, selection = plan_run(run, ShardReader(run.data.shards).manifest)
    dealt = np.random.default_rng(run.seed).permutation(selection)[:12]
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    model.train()
    for norm in norms:
        norm.momentum = 1.0
    at_once = dataclasses.replace(image, local=image.local[dealt], pooled=image.pooled[dealt])
    model.embed_shapes(model.encode_pooled(points[dealt]))
    model.embed_pictures(at_once)
    update_running_statistics(model)
    model.eval()
    pooled = model.encode_pooled(points)
    return {
        "features": pooled.numpy(),
        "shape_embeddings": model.embed_shapes(pooled).numpy(),
        "picture_embeddings": model.embed_pictures(image).numpy(),
    }


@pytest.mark.parametrize("network", ["pretrained", "random_init"])
def test_both_networks_are_encoded_with_statistics_of_the_pretraining_shapes(
    run, run_dir, encoded, network: str
) -> None:
    model = build(run, run_dir if network == "pretrained" else None)
    shapes = getattr(encoded, network)
    for name, expected in oracle(run, model).items():
        # float32 in batches of another size; the statistics of other shapes are far above.
        np.testing.assert_allclose(getattr(shapes, name), expected, rtol=1e-3, atol=1e-4)


def test_the_two_networks_differ_and_tell_of_the_same_shapes(run, encoded) -> None:
    first, second = encoded.pretrained, encoded.random_init
    assert np.abs(first.features - second.features).max() > 0.1
    assert first.keys == second.keys == ShardReader(run.data.shards).manifest.read_texts("key")[0]
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert first.held_out.sum() == 4


def test_held_out_shapes_enter_no_statistic(run, run_dir, encoded, monkeypatch) -> None:
    """Held-out clouds and pictures are spoilt as they are read; the others' features stay."""
    held_out = {
        key
        for key, out in zip(encoded.pretrained.keys, encoded.pretrained.held_out, strict=True)
        if out
    }
    real = encode.evaluation_batches

    def spoilt(*arguments):
        for batch in real(*arguments):
            rows = torch.tensor([key in held_out for key in batch.keys])
            points = torch.where(rows[:, None, None], 7 * batch.points + 3, batch.points)
            black = batch.pictures * ~rows[:, None, None, None, None]
            yield dataclasses.replace(batch, points=points, pictures=black)

    monkeypatch.setattr(encode, "evaluation_batches", spoilt)
    other = encode_run(run, run_dir, CONFIG, CPU)
    mask = encoded.pretrained.held_out
    for network in ("pretrained", "random_init"):
        before, after = getattr(encoded, network), getattr(other, network)
        for name in ("features", "shape_embeddings", "picture_embeddings"):
            mine, theirs = getattr(before, name), getattr(after, name)
            np.testing.assert_array_equal(mine[~mask], theirs[~mask])
            assert np.abs(mine[mask] - theirs[mask]).max() > 1e-3


def test_every_shape_is_read_and_every_picture_described_once(run, run_dir, monkeypatch) -> None:
    asked, described = [], []
    stream, describe = ShardReader.stream, ImageEncoder.forward

    def watched(self, requests, read_ahead):
        def noted():
            for request in requests:
                asked.append(request.sample_index)
                yield request

        return stream(self, noted(), read_ahead)

    def counted(self, given):
        described.append(given.shape[0] * given.shape[1])
        return describe(self, given)

    monkeypatch.setattr(ShardReader, "stream", watched)
    monkeypatch.setattr(ImageEncoder, "forward", counted)
    encode_run(run, run_dir, CONFIG, CPU)
    assert sorted(asked) == list(range(18))
    assert sum(described) == 18 * 2


def test_shapes_are_shuffled_before_they_are_cut_into_ghost_batches(run) -> None:
    """A manifest may be sorted by class; a ghost batch of one class would be no fair sample."""
    rows = np.arange(40)
    dealt = deal_to_ghosts(rows, 8, run.seed)
    assert len(dealt) == 40
    assert not np.array_equal(dealt, rows)
    np.testing.assert_array_equal(np.sort(dealt), rows)
    np.testing.assert_array_equal(dealt, deal_to_ghosts(rows, 8, run.seed))
    assert not np.array_equal(dealt, deal_to_ghosts(rows, 8, run.seed + 1))


def test_another_shard_set_than_the_one_trained_on_is_refused(
    run, run_dir, tmp_path, write_other_shapes
) -> None:
    data = dataclasses.replace(run.data, shards=str(write_other_shapes(tmp_path / "other")))
    with pytest.raises(CheckpointError, match="the shapes to train on are others"):
        encode_run(dataclasses.replace(run, data=data), run_dir, CONFIG, CPU)


def test_another_fold_than_the_one_trained_on_is_refused(run, run_dir) -> None:
    holdout = dataclasses.replace(run.data.holdout, fold=1)
    data = dataclasses.replace(run.data, holdout=holdout)
    with pytest.raises(CheckpointError, match=r"data\.holdout\.fold was 0, is 1"):
        encode_run(dataclasses.replace(run, data=data), run_dir, CONFIG, CPU)


def test_a_run_without_a_checkpoint_is_refused(run, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        encode_run(run, tmp_path, CONFIG, CPU)


def test_a_damaged_newest_checkpoint_is_refused_unless_asked_for(run, copied) -> None:
    newest = max((copied / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"(?s){newest.name}.*encode\.unfinished=true"):
        encode_run(run, copied, CONFIG, CPU)
    asked_for = dataclasses.replace(CONFIG, unfinished=True)
    assert encode_run(run, copied, asked_for, CPU).pretrained.keys


def test_an_unfinished_run_is_refused_unless_asked_for(run, tmp_path, encoded) -> None:
    reports = pretrain(dataclasses.replace(run, log_every=2), tmp_path, CPU, resume="never")
    next(reports)
    reports.close()
    with pytest.raises(CheckpointError, match=r"12 of 36 samples.*by the same command"):
        encode_run(run, tmp_path, CONFIG, CPU)
    early = encode_run(run, tmp_path, dataclasses.replace(CONFIG, unfinished=True), CPU)
    np.testing.assert_array_equal(early.random_init.features, encoded.random_init.features)
    assert not np.array_equal(early.pretrained.features, encoded.pretrained.features)


def test_a_run_that_paused_where_it_was_to_is_finished(run, tmp_path) -> None:
    """The same command would keep it as it is; a population's members are such runs."""
    paused = dataclasses.replace(run, pause_after=1)
    assert paused.last_epoch < paused.epochs
    list(pretrain(paused, tmp_path, CPU, resume="never"))
    assert encode_run(paused, tmp_path, CONFIG, CPU).pretrained.keys


@pytest.mark.parametrize("changes", [{"views": -1}, {"batch_size": 0}], ids=str)
def test_an_encoding_out_of_bounds_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="encode"):
        EncodeConfig(**changes)


# --- a run with cached features


@pytest.fixture(scope="module")
def cached_run(run: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """The same run with features that were kept, as precisely as can be."""
    features = str(tmp_path_factory.mktemp("features") / "set")
    command = [
        "cache-features",
        f"shards={run.data.shards}",
        f"out={features}",
        "features.format=float16",
        f"image_encoder.input_px={run.image_encoder.input_px}",
        "image_encoder.precision=float32",
        "fleet.max_workers=1",
    ]
    assert main(command) == 0
    data = dataclasses.replace(run.data, image_features="cached", features=features)
    return dataclasses.replace(run, data=data)


@pytest.fixture(scope="module")
def cached_run_dir(cached_run: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cached-run")
    list(pretrain(cached_run, folder, CPU, resume="never"))
    return folder


def test_a_run_with_cached_features_is_encoded_without_the_image_encoder(
    cached_run: PretrainConfig, cached_run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = dataclasses.replace(CONFIG, image_features="live")
    asked = encode_run(cached_run, cached_run_dir, live, CPU).pretrained

    def refuse(*_: object) -> None:
        raise AssertionError("the image encoder was asked")

    monkeypatch.setattr(ImageEncoder, "forward", refuse)
    read = encode_run(cached_run, cached_run_dir, CONFIG, CPU).pretrained
    np.testing.assert_array_equal(read.features, asked.features)  # of clouds alone
    np.testing.assert_allclose(read.picture_embeddings, asked.picture_embeddings, atol=2e-3)
    assert np.abs(read.picture_embeddings - asked.picture_embeddings).max() > 0  # they were kept


def test_shapes_of_a_validation_fold_are_neither_train_nor_test(run, tmp_path) -> None:
    """They were seen while decisions were made, so no result may come from them."""
    holdout = dataclasses.replace(run.data.holdout, validation_fold=2)
    data = dataclasses.replace(run.data, holdout=holdout)
    validated = dataclasses.replace(run, data=data, epochs=1)
    list(pretrain(validated, tmp_path / "run", CPU, resume="never"))
    shapes = encode_run(validated, tmp_path / "run", CONFIG, CPU).pretrained
    manifest = ShardReader(data.shards).manifest
    split = split_shapes(manifest, holdout)
    keys = np.array(manifest.read_texts("key")[0])
    assert split.validation.sum() >= 3
    np.testing.assert_array_equal(shapes.keys, keys[~split.validation])
    np.testing.assert_array_equal(shapes.held_out, split.test[~split.validation])
    assert len(shapes.features) == len(shapes.picture_embeddings) == len(shapes.keys)
    labels = np.array(manifest.read_texts("label")[0])[~split.validation]
    assert [shapes.class_names[label] for label in shapes.labels] == labels.tolist()
