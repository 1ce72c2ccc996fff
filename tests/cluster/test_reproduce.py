"""The paper's setting is all there, and an experiment runs its commands, each once."""

import json
import sys
from pathlib import Path

import pytest

from cluster.app import main
from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs import reproduce
from cluster.jobs.pretrain import PretrainJob
from cluster.jobs.reproduce import ExperimentStep, ReproduceJob

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cloud_sets import clouds, write_set
from test_finetune_job import TINY


def paper(encoder: str) -> ReproduceJob:
    overrides = ["out=o", "meshes=nowhere", "shards=none", "clouds=none", f"encoder={encoder}"]
    return load_job(ReproduceJob, compose_config("reproduce", overrides))


@pytest.mark.parametrize("encoder", ["dgcnn", "pointnext_s"])
def test_the_paper_s_setting_is_what_the_paper_tells(encoder: str) -> None:
    (step,) = [step for step in paper(encoder).steps if step.name == "pretrain"]
    job = load_job(PretrainJob, compose_config("pretrain", list(step.overrides)))
    assert job.point_encoder.name == encoder
    assert (job.image_encoder.name, job.image_encoder.weights) == ("resnet18", "default")
    assert (job.data.num_points, job.data.views, job.data.rig) == (1024, 20, "dodecahedron")
    assert (job.heads.latent_width, job.heads.pose_width) == (512, 64)
    assert job.heads.pose_fusion == "output"
    assert (job.optim.algorithm, job.optim.drop_at, job.optim.cosine_share) == ("adamw", None, None)
    assert job.loss.local_weight > 0
    assert job.loss.pooled_weight > 0
    assert job.data.holdout.num_folds == 0


@pytest.mark.parametrize("encoder", ["dgcnn", "pointnext_s"])
def test_its_whole_plan_is_told_without_any_data(encoder: str) -> None:
    told = "\n".join(reproduce.describe(paper(encoder)))
    for data in ("modelnet40_h5", "obj_bg", "obj_only", "pb_t50_rs", "shapenetpart"):
        assert data in told
    # 100 epochs of 51,300 shapes in batches of 512, as published; 250 epochs of PB_T50_RS.
    assert "cost   5,120,000 samples in 10,000 steps; " in told
    epochs = {"dgcnn": 250, "pointnext_s": 600}[encoder]
    assert f"cost   {epochs * 9824:,} samples in {epochs * 307:,} steps" in told
    assert f"{89_000:,} steps, {25 * 2882:,} evaluated" in told
    # DGCNN's network for parts takes no weights of its encoder.
    assert ("pretrain_parts" in told) == (encoder == "pointnext_s")
    assert "EFLOPs" in told.splitlines()[-1]


def experiment(tmp_path: Path, *steps: ExperimentStep) -> ReproduceJob:
    return ReproduceJob(
        name="tiny",
        note="",
        steps=steps,
        out=str(tmp_path),
        meshes="none",
        shards="none",
        clouds="none",
        encoder="dgcnn",
        training=tuple(TINY),
    )


def test_commands_run_in_their_order_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solids = write_set(tmp_path / "solids", list(clouds()))
    first = ExperimentStep("first", "finetune", (f"data.shards={solids}", f"out={tmp_path / 'a'}"))
    other = ExperimentStep("other", "finetune", first.overrides, encoders=("pointnext_s",))
    job = experiment(tmp_path, first, other)
    assert "24 clouds to train on" in "\n".join(reproduce.describe(job))
    assert not (tmp_path / "a").exists()
    reproduce.run(job)
    assert "[1/1] first: picpoint finetune" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "result.json").read_text())["num_train"] == 24
    reproduce.run(job)
    assert "kept: finetune" in capsys.readouterr().out


def test_a_wrong_setting_is_told_before_anything_runs(tmp_path: Path) -> None:
    wrong = ExperimentStep("second", "finetune", ("data.shards=s", "out=o", "epocs=3"))
    with pytest.raises(ConfigError, match=r"tiny, second: unknown key 'epocs'.*'epochs'"):
        reproduce.run(experiment(tmp_path, wrong))
    with pytest.raises(ValueError, match="each name once"):
        experiment(tmp_path, wrong, wrong)


def test_what_is_needed_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "out=o"]) == 2
    assert "meshes" in capsys.readouterr().err
    assert main(["reproduce", "out=o", "meshes=m", "experiment=modelnet40_dgcnn"]) == 2
