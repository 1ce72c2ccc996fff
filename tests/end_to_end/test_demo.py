"""The whole road, small: real meshes of the demo's pack, every job, one process."""

import json
import zipfile
from pathlib import Path

import pytest

from cluster.app import main
from picpoint.assets import DEMO_SHAPES
from picpoint.evaluate.trials import METRICS
from picpoint.render.sources import list_shapes
from shards.manifest import load_manifest
from shards.verify import verify

SMALL = [
    "render.fleet.max_workers=1",
    "render.shapes_per_shard=5",
    "render.capture.num_points=512",
    "render.capture.rig.size_px=64",
    "pretrain.runtime.name=local",
    "pretrain.runtime.num_workers=1",
    "pretrain.data.num_points=96",
    "pretrain.data.correspondences=16",
    "pretrain.data.holdout.num_folds=3",
    "pretrain.point_encoder.widths=[8,8,8,16]",
    "pretrain.point_encoder.pooled_width=16",
    "pretrain.point_encoder.num_neighbours=8",
    "pretrain.image_encoder.input_px=64",
    "pretrain.heads.latent_width=16",
    "pretrain.heads.hidden_width=16",
    "pretrain.global_batch=4",
    "pretrain.ghost_batch=2",
    "pretrain.epochs=2",
    "evaluate.encode.views=2",
    "evaluate.probe.num_repeats=2",
]


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seats and six lamps in folders of their class, and one broken file."""
    folder = tmp_path_factory.mktemp("meshes")
    with zipfile.ZipFile(DEMO_SHAPES) as pack:
        for label in ("seat", "lamp"):
            (folder / label).mkdir()
            shapes = [shape for shape in list_shapes(DEMO_SHAPES) if shape.label == label]
            for number, shape in enumerate(shapes[:6]):
                content = pack.read(shape.file)
                (folder / label / f"{number}.glb").write_bytes(content)
    (folder / "lamp" / "broken.glb").write_bytes(b"glTF but not really")
    return folder


@pytest.fixture(scope="module")
def demo(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", f"out={out}", f"render.source={meshes}", "seeds=2", *SMALL]) == 0
    return out


def test_results_hold_every_figure(demo: Path) -> None:
    results = json.loads((demo / "results.json").read_text())
    for part in [results["mean"], *results["seeds"]]:
        for metric in METRICS:
            for encoder in ("pretrained", "random_init"):
                assert 0 <= part[metric][encoder] <= 1
    assert results["std"]["knn"]["pretrained"] is not None
    assert results["shapes"]["num_classes"] == 2
    assert {"render", "pretrain_seed_0", "pretrain_seed_1", "evaluate"} <= set(results["seconds"])
    assert results["commit"]
    assert "torch" in results["versions"]


def test_seeds_hold_out_other_shapes(demo: Path) -> None:
    results = json.loads((demo / "results.json").read_text())
    held_out = [set(seed["per_shape"]["knn"]["keys"]) for seed in results["seeds"]]
    assert len(held_out[0]) == 4
    assert not held_out[0] & held_out[1]


def test_the_shards_are_whole_and_the_broken_mesh_is_named(demo: Path) -> None:
    report = verify(str(demo / "shards"))
    assert report.exit_code == 0, report.findings
    manifest = load_manifest(demo / "shards")
    assert manifest.num_samples == 12
    assert [(reject.source_id, reject.reason) for reject in manifest.rejects] == [
        ("lamp/broken", "unreadable")
    ]


def test_the_page_shows_the_figures(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    mean = json.loads((demo / "results.json").read_text())["mean"]
    assert f"{100 * mean['retrieval_picture_to_shape']['pretrained']:.1f}" in page
    assert "seat, view" in page


def test_every_run_has_its_settings_beside_it(demo: Path) -> None:
    assert (demo / "shards" / "render.yaml").exists()
    for seed in (0, 1):
        settings = (demo / f"seed-{seed}" / "pretrain.yaml").read_text()
        assert f"seed: {seed}" in settings
        done = json.loads((demo / f"seed-{seed}" / "pretrain.done.json").read_text())
        assert done["versions"]["torch"]


def test_a_second_call_keeps_what_is_done(
    demo: Path, meshes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.glob("seed-*/checkpoints/*")}
    assert main(["demo", f"out={demo}", f"render.source={meshes}", "seeds=2", *SMALL]) == 0
    assert {path: path.stat().st_mtime_ns for path in demo.glob("seed-*/checkpoints/*")} == before


def test_other_settings_in_the_same_folder_are_refused(
    demo: Path, meshes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"out={demo}", f"render.source={meshes}", *SMALL, "render.capture.seed=1"]
    assert main(["demo", *arguments]) == 2
    assert "other settings" in capsys.readouterr().err
