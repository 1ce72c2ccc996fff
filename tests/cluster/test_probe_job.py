"""`picpoint probe` of an exported encoder's frozen features, beside the same network untrained."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.app import main
from cluster.jobs import probe as probe_job
from picpoint.data.clouds import CloudDataConfig
from picpoint.data.dataset import open_dataset
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.evaluate.cloud_features import calibrate_on_clouds, encode_clouds
from picpoint.evaluate.frozen_result import read_frozen
from picpoint.model import build_point_encoder
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.weights.encoder_file import load_encoder, save_encoder
from shards.cloud_sets import CloudReader

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cloud_sets import clouds, write_set

QUICK = [
    "data.num_points=48",
    "frozen.ways=[2]",
    "frozen.shots=[3]",
    "frozen.queries=4",
    "frozen.num_neighbours=3",
    "eval_batch=5",
]


@pytest.fixture(scope="module")
def solids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("solids"), list(clouds()))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A network that was never trained, under another seed than the control."""
    torch.manual_seed(1)
    config = DgcnnConfig(widths=(8, 8, 8, 16), pooled_width=16, num_neighbours=4)
    save_encoder(build_point_encoder(config, 4), tmp_path / "encoder")
    return tmp_path / "encoder"


def probe(solids: Path, encoder: Path, out: Path, *more: str) -> int:
    where = [f"data.shards={solids}", f"weights={encoder}", f"out={out}"]
    return main(["probe", *where, *QUICK, *more])


def test_clouds_too_small_for_the_encoder_or_the_setting_are_told_before_anything_is_written(
    solids: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(solids, encoder, tmp_path / "probe", "data.num_points=3") == 2
    told = capsys.readouterr().err
    assert f"weights={encoder}: data.num_points=3: dgcnn needs 4 points or more" in told
    assert probe(solids, encoder, tmp_path / "probe", "data.num_points=81") == 2
    told = capsys.readouterr().err
    assert "data.num_points=81: 36 of 36 clouds" in told
    assert "holds 80: ask for so few" in told
    assert not (tmp_path / "probe").exists()


def test_too_few_clouds_for_a_task_are_told_before_anything_is_written(
    solids: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command with the mended setting, in the same folder, is then no other one."""
    assert probe(solids, encoder, tmp_path / "probe", "frozen.queries=5") == 6
    assert "queries=5: a class has 4 clouds" in capsys.readouterr().err
    assert not (tmp_path / "probe").exists()
    assert probe(solids, encoder, tmp_path / "probe", "frozen.trials=0") == 0


def test_features_of_solids_tell_them_apart(
    solids: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(solids, encoder, tmp_path / "probe") == 0
    told = capsys.readouterr().out
    assert "solids, test: 24 clouds fitted, 12 named, 48 points" in told
    assert "2-way 3-shot" in told
    result = read_frozen(tmp_path / "probe" / "frozen.json")
    assert set(result.pretrained.svm) == {"LinearSVC", "SVC"}
    assert result.random_init is not None
    for scores in (result.pretrained, result.random_init):
        # Chance is a third; balls, poles and plates differ in any features of points.
        assert scores.svm["SVC"].accuracy > 0.6
        assert 0 <= scores.knn <= 1
        assert scores.few_shot[0].trials == 10
    # Done once, it is told again.
    assert probe(solids, encoder, tmp_path / "probe") == 0
    assert "kept: probe" in capsys.readouterr().out


def test_other_batches_give_the_same(solids: Path, encoder: Path, tmp_path: Path) -> None:
    for batch in (1, 12):
        assert probe(solids, encoder, tmp_path / f"{batch}", f"eval_batch={batch}") == 0
    one, other = (
        json.loads((tmp_path / f"{batch}" / "frozen.json").read_text()) for batch in (1, 12)
    )
    assert one["pretrained"] == other["pretrained"]


def test_validation_leaves_the_test_split_alone(solids: Path, encoder: Path, tmp_path) -> None:
    assert (
        probe(solids, encoder, tmp_path / "v", "data.evaluate_on=validation", "frozen.queries=2")
        == 0
    )
    result = read_frozen(tmp_path / "v" / "frozen.json")
    assert result.evaluated_on == "validation of train"
    assert result.num_train + result.num_evaluated == 24


def test_too_few_clouds_are_told(
    solids: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(solids, encoder, tmp_path / "p", "frozen.shots=[30]") == 6
    assert "shots=30: a class has 8 clouds" in capsys.readouterr().err
    few = ["data.label_share=0.1", "frozen.trials=0"]
    assert probe(solids, encoder, tmp_path / "q", *few, "statistics=stored") == 6
    assert "one training cloud" in capsys.readouterr().err
    assert probe(solids, encoder, tmp_path / "r", *few) == 6
    assert "statistics=calibrated: 3 clouds" in capsys.readouterr().err


def test_both_networks_have_statistics_of_the_same_kind(
    solids: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calibrated = probe_job.calibrate_on_clouds, []

    def watched(encoder: torch.nn.Module, *rest: object) -> None:
        before = next(iter(encoder.state_dict().values())).sum().item()
        real(encoder, *rest)  # pyright: ignore[reportArgumentType]
        calibrated.append(before)

    monkeypatch.setattr(probe_job, "calibrate_on_clouds", watched)
    assert probe(solids, encoder, tmp_path / "stored", "statistics=stored") == 0
    assert calibrated == []
    assert probe(solids, encoder, tmp_path / "calibrated") == 0
    assert len(set(calibrated)) == 2  # other weights each time
    for statistics in ("stored", "calibrated"):
        result = read_frozen(tmp_path / statistics / "frozen.json")
        assert result.statistics == statistics


def test_calibrating_undoes_what_was_stored(solids: Path, encoder: Path) -> None:
    dataset = open_dataset(CloudReader(str(solids)))
    rows, config = dataset.rows_of(["train"]), CloudDataConfig(shards=str(solids), num_points=48)
    device = torch.device("cpu")
    told = []
    for spoilt in (False, True):
        loaded = load_encoder(str(encoder))
        network = build_point_encoder(loaded.config, 4)
        network.load_state_dict(loaded.state_dict())
        for norm in network.modules():
            if spoilt and isinstance(norm, GhostBatchNorm):
                norm.running_mean.fill_(3.0)
        stored = encode_clouds(network, dataset, rows, config, 5, device)
        calibrate_on_clouds(network, dataset, rows, config, 0, device)
        told.append((stored, encode_clouds(network, dataset, rows, config, 5, device)))
    (stored, calibrated), (other_stored, other_calibrated) = told
    assert not np.allclose(stored.features, other_stored.features, atol=0.1)
    np.testing.assert_allclose(calibrated.features, other_calibrated.features, atol=1e-5)
