"""What the image encoder said is kept: the same loss, without a picture or the encoder."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TINY_RUN

from cluster.app import main
from picpoint.data import pair
from picpoint.data.image_features import (
    FeatureCodec,
    FeatureInfo,
    fit_basis,
    load_codec,
    needed_cells,
)
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.features.describe import FeaturesConfig, prepare_features
from picpoint.geometry.cameras import world_to_pixel
from picpoint.model import sample_map
from picpoint.train import image_source
from picpoint.train.image_source import OtherFeaturesError, open_features
from shards.codec import decode_picture
from shards.manifest import load_manifest
from shards.reader import Request, ShardReader

ENCODER = ImageEncoderConfig(input_px=64, precision="float32")
TELLS = ["image_encoder.input_px=64", "image_encoder.precision=float32", "fleet.max_workers=1"]


INFO = FeatureInfo(
    base_digest="",
    encoder="lite0",
    weights_sha256="",
    stride=16,
    input_px=64,
    precision="float32",
    format="int8",
    num_axes=4,
    local_width=6,
    pooled_width=8,
    cells_across=4,
    basis_sha256="",
)


def cache(shards: Path, out: Path, *more: str) -> int:
    return main(["cache-features", f"shards={shards}", f"out={out}", *TELLS, *more])


@pytest.fixture(scope="module")
def kept(shard_set, tmp_path_factory) -> dict[str, Path]:
    """Features of all shapes, in both formats."""
    folder = tmp_path_factory.mktemp("features")
    for name, more in (
        ("float16", ["features.format=float16"]),
        ("int8", ["features.num_axes=100"]),
    ):
        assert cache(shard_set, folder / name, *more) == 0
    return {name: folder / name for name in ("float16", "int8")}


def live_features(shards: Path, sample_index: int):
    sample = ShardReader(shards).read(Request(sample_index, tuple(range(20))))
    pictures = np.stack([decode_picture(sample.pictures[view]) for view in range(20)])
    stacked = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    return sample, ImageEncoder(ENCODER)(stacked[None])


@pytest.mark.parametrize(("name", "least_cosine"), [("float16", 0.99999), ("int8", 0.995)])
def test_what_is_sampled_at_visible_points_is_what_the_encoder_says(
    shard_set, kept, name, least_cosine
):
    """All visible points, between cells and at the border too; axes are 100 of 112."""
    sample, image = live_features(shard_set, 4)
    codec = load_codec(str(kept[name]))
    reader = ShardReader(shard_set, columns=[kept[name]])
    extras = reader.read(Request(4, tuple(range(20)), pictures=False)).extras
    u_px, v_px, _ = world_to_pixel(
        sample.points[None].astype(np.float32),
        sample.view_matrices,
        sample.projection_matrices,
        sample.meta.size_px,
    )
    mean = torch.from_numpy(codec.basis[-1])
    for view in range(20):
        pixels = torch.from_numpy(np.stack([u_px[view], v_px[view]], axis=-1))
        pixels = pixels[torch.from_numpy(sample.visible(view))].float()[None, None]
        again = torch.from_numpy(codec.decode_local(extras, view))[None, None]
        live = image.local[:, view : view + 1]
        a, b = (
            sample_map(each, pixels, sample.meta.size_px)[0, 0] - mean for each in (live, again)
        )
        assert torch.nn.functional.cosine_similarity(a, b).mean() > least_cosine
        pooled = torch.from_numpy(codec.decode_pooled(extras, view))
        torch.testing.assert_close(pooled, image.pooled[0, view], rtol=1e-3, atol=1e-3)


def test_only_cells_that_a_visible_point_asks_for_are_kept(shard_set):
    sample = ShardReader(shard_set).read(Request(0))
    hidden = dataclasses.replace(sample, visibility=np.zeros_like(sample.visibility))
    assert not needed_cells(hidden, 4).any()
    some = needed_cells(sample, 16)
    assert some.any()
    assert not some.all()


def test_axes_of_as_many_as_there_are_features_lose_rounding_only():
    generator = np.random.default_rng(0)
    cells = generator.normal(size=(4000, 6)).astype(np.float32) @ np.diag([9, 5, 3, 1, 1, 0.5])
    cells = (cells + 3).astype(np.float32)
    basis = fit_basis(cells, 6)
    codec = FeatureCodec(dataclasses.replace(INFO, num_axes=6, local_width=6), basis)
    steps = codec._shorten(cells)
    again = steps.astype(np.float32) @ basis[:-1] + basis[-1]
    inside = (np.abs(steps) < 127).all(axis=1)
    assert inside.mean() > 0.98
    # Half a step along each axis, at right angles to the others.
    half = np.sqrt(np.square(basis[:-1] / 2).sum())
    assert np.linalg.norm((again - cells)[inside], axis=1).max() <= half * 1.001


def test_more_axes_than_features_are_refused():
    with pytest.raises(ValueError, match="num_axes=7: must be at least 1 and at most 6"):
        fit_basis(np.zeros((9, 6), np.float32), 7)


def pretrained(shards: Path, out: Path, *more: str) -> list[dict[str, float]]:
    tiny = [*TINY_RUN, "global_batch=6", "ghost_batch=2", "epochs=2", "log_every=1"]
    assert main(["pretrain", f"data.shards={shards}", f"out={out}", *tiny, *more]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


CACHED = ["data.image_features=cached", "runtime=local"]


def test_cached_features_train_as_live_ones_without_a_picture_or_the_encoder(
    shard_set, kept, tmp_path, monkeypatch
):
    live = pretrained(shard_set, tmp_path / "live", "runtime=local")

    def forbidden(*arguments):
        raise AssertionError("a picture was decoded, or the encoder loaded")

    monkeypatch.setattr(pair, "decode_picture", forbidden)
    monkeypatch.setattr(image_source, "ImageEncoder", forbidden)
    for name, tolerance in (("float16", 1e-3), ("int8", 5e-2)):
        out = tmp_path / name
        cached = pretrained(shard_set, out, f"data.features={kept[name]}", *CACHED)
        # Later steps magnify what is rounded.
        for figure in ("loss_local", "loss_pooled"):
            assert cached[0][figure] == pytest.approx(live[0][figure], rel=tolerance)


def test_a_run_with_cached_features_is_evaluated_with_pictures(shard_set, kept, tmp_path):
    run = tmp_path / "run"
    pretrained(shard_set, run, f"data.features={kept['int8']}", *CACHED)
    assert main(["evaluate", f"runs=[{run}]", f"out={tmp_path / 'out'}", "encode.views=2"]) == 0


@pytest.mark.slow
def test_a_lost_shard_of_features_is_made_again_to_the_same_bytes(shard_set, kept, tmp_path):
    out = tmp_path / "again"
    assert cache(shard_set, out, "features.format=float16") == 0
    names = sorted(path.relative_to(out) for path in out.rglob("*.tar"))
    assert len(names) == 3
    for name in names:
        assert (out / name).read_bytes() == (kept["float16"] / name).read_bytes()
    (out / "columns.json").unlink()
    (out / "cache_features.done.json").unlink()
    (out / names[1]).unlink()
    (out / "manifest" / "samples" / names[1].with_suffix(".parquet")).unlink()
    assert cache(shard_set, out, "features.format=float16") == 0
    for path in kept["float16"].rglob("*"):
        if path.is_file() and path.name != "cache_features.done.json":
            relative = path.relative_to(kept["float16"])
            assert (out / relative).read_bytes() == path.read_bytes(), relative


def test_features_of_another_encoder_or_of_other_shards_are_refused(
    shard_set, kept, write_other_shapes, tmp_path
):
    url, manifest = str(kept["int8"]), load_manifest(shard_set)
    assert open_features(url, ENCODER, manifest).info.format == "int8"
    for config, why in (
        (dataclasses.replace(ENCODER, stride=32), "image_encoder.stride was 16, is 32"),
        (dataclasses.replace(ENCODER, input_px=96), "image_encoder.input_px was 64, is 96"),
        (dataclasses.replace(ENCODER, precision="bfloat16"), "precision was float32, is bfloat16"),
    ):
        with pytest.raises(OtherFeaturesError, match=why):
            open_features(url, config, manifest)
    others = load_manifest(write_other_shapes(tmp_path / "other"))
    with pytest.raises(OtherFeaturesError, match="the shard set was"):
        open_features(url, ENCODER, others)


def test_the_loss_of_keeping_is_measured_on_shapes_that_the_axes_were_not_found_on(
    shard_set, tmp_path
):
    encoder, manifest = ImageEncoder(ENCODER), load_manifest(shard_set)
    found = {}
    for number, axes in enumerate((4, 32, 100)):
        config = FeaturesConfig(num_axes=axes)
        out = str(tmp_path / str(number))
        _, found[axes] = prepare_features(manifest, out, encoder, ENCODER, config)
    assert found[4].local_cosine < found[32].local_cosine < found[100].local_cosine <= 1
    assert found[4].bytes_per_view < found[32].bytes_per_view < found[100].bytes_per_view


def test_settings_that_do_not_go_together_are_refused(shard_set, tmp_path, capsys):
    command = ["pretrain", f"data.shards={shard_set}", f"out={tmp_path / 'run'}"]
    assert main([*command, "data.image_features=cached"]) == 2
    assert "the folder that picpoint cache-features wrote" in capsys.readouterr().err
    assert main([*command, f"data.features={tmp_path}"]) == 2
