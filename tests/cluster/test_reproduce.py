"""The paper's setting is all there, and an experiment runs its commands, each once."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.app import main
from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs import reproduce
from cluster.jobs.finetune import FinetuneJob
from cluster.jobs.pretrain import PretrainJob
from cluster.jobs.reproduce import ExperimentStep, ReproduceJob
from cluster.report_sources import read_finetuning
from picpoint.model import build_point_encoder
from picpoint.report.parts import CloudPairs, part_sections
from shards.schema import Sample
from tests.conftest import CLASSES, make_shape

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from cloud_sets import clouds, write_set
from layouts import write_s3dis_rooms
from test_finetune_job import TINY


def paper(encoder: str) -> ReproduceJob:
    overrides = ["out=o", "meshes=nowhere", "shards=none", "clouds=none", f"encoder={encoder}"]
    return load_job(ReproduceJob, compose_config("reproduce", overrides))


@pytest.mark.parametrize("encoder", ["dgcnn", "pointnext_s"])
def test_the_paper_s_setting_is_what_the_paper_tells(encoder: str) -> None:
    (step,) = [step for step in paper(encoder).steps if step.name == "pretrain_objects"]
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
    for data in ("modelnet40_h5", "obj_bg", "obj_only", "pb_t50_rs", "shapenetpart", "s3dis"):
        assert data in told
    # 100 epochs of 51,300 shapes in batches of 512, as published; 250 epochs of PB_T50_RS.
    assert "cost   5,120,000 samples in 10,000 steps; " in told
    epochs = {"dgcnn": 250, "pointnext_s": 600}[encoder]
    assert f"cost   {epochs * 9824:,} samples in {epochs * 307:,} steps" in told
    assert f"{89_000:,} steps, {25 * 2882:,} evaluated" in told
    # DGCNN's networks for parts and scenes take no weights of its encoder.
    assert ("pretrain_parts" in told) == (encoder == "pointnext_s")
    assert ("pretrain_scenes" in told) == (encoder == "pointnext_s")
    # Area 5 from the others: 3,000 epochs of 204 rooms, ten evaluations; or blocks of rooms.
    rooms = "cost   576,000 samples in 18,000 steps, 680 evaluated; 9.92 PFLOPs"
    blocks = "cost   1,670,400 samples in 52,200 steps, 68,520 evaluated; 61.1 PFLOPs"
    assert (rooms if encoder == "pointnext_s" else blocks) in told
    assert "EFLOPs" in told.splitlines()[-1]


def test_what_is_pretrained_for_another_task_has_its_network_s_shape() -> None:
    """Or its weights would be those of other strides and radii; their shapes are the same."""
    jobs = {
        step.name: load_job(
            FinetuneJob if step.command == "finetune" else PretrainJob,
            compose_config(step.command, list(step.overrides)),
        )
        for step in paper("pointnext_s").steps
        if step.command in ("pretrain", "finetune") and "dgcnn" not in step.name
    }
    for task, source in (
        ("shapenetpart", "pretrain_parts"),
        ("s3dis", "pretrain_scenes"),
        ("modelnet40", "pretrain_objects"),
    ):
        theirs, ours = jobs[source].point_encoder, jobs[task].point_encoder
        assert dataclasses.replace(theirs, local_stage=ours.local_stage) == ours
        assert jobs[task].weights == jobs[source].out  # pyright: ignore
        # Of a quarter of the points in each.
        assert build_point_encoder(theirs, 1).num_local(1024) == 256
        # Whatever is told besides, the task from scratch is the same.
        told, scratch = jobs[task], jobs[f"{task}_scratch"]
        same = dataclasses.replace(scratch, weights=told.weights, out=told.out)  # pyright: ignore
        assert dataclasses.replace(same, initialise=told.initialise) == told  # pyright: ignore


def test_overrides_are_of_a_command_or_of_a_step() -> None:
    more = "more=[pretrain.epochs=3,finetune.epochs=5,s3dis.epochs=7]"
    overrides = ["out=o", "meshes=m", "shards=s", "clouds=c", more, "training=[seed=4]"]
    job = load_job(ReproduceJob, compose_config("reproduce", overrides))
    epochs = {
        step.name: [each for each in job.overrides_of(step) if each.startswith(("epochs", "seed"))]
        for step in job.steps
    }
    assert epochs["pretrain_objects"] == epochs["pretrain_parts"] == ["seed=4", "epochs=3"]
    assert epochs["modelnet40"] == ["seed=4", "epochs=5"]
    assert epochs["s3dis"] == ["seed=4", "epochs=5", "epochs=7"]
    assert epochs["obj_bg_svm"] == []
    # What no step of this encoder has would be left out in silence.
    dgcnn = compose_config("reproduce", [*overrides, "encoder=dgcnn"])
    with pytest.raises(ConfigError, match=r"'s3dis\.epochs=7' .* encoder=dgcnn;.*modelnet40"):
        load_job(ReproduceJob, dgcnn)
    with pytest.raises(ConfigError, match=r"'epochs=3' begins with no command and no step"):
        load_job(
            ReproduceJob, compose_config("reproduce", ["out=o", "meshes=m", "more=[epochs=3]"])
        )


def test_what_is_said_of_one_step_reaches_no_other() -> None:
    more = ["pretrain_objects.epochs=3", "render_shapes.shapes_per_shard=8"]
    job = load_job(
        ReproduceJob, compose_config("reproduce", ["out=o", "meshes=m", f"more=[{','.join(more)}]"])
    )
    reached = [
        f"{step.name}.{told}"
        for step in job.steps
        for told in job.overrides_of(step)[len(step.overrides) :]
    ]
    assert sorted(reached) == more
    named = ExperimentStep("pretrain", "finetune", ())
    with pytest.raises(ValueError, match=r"'pretrain' is the name of a command, and more=\[pret"):
        experiment(Path("o"), named)


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


def test_rooms_of_s3dis_are_learnt_from_what_was_pretrained_in_their_shape(
    tmp_path: Path, write_samples: Callable[[Path, list[Sample]], Path]
) -> None:
    shapes = [make_shape(label, number, 1024) for label in CLASSES for number in range(3)]
    shards = write_samples(tmp_path / "shards", shapes)
    write_s3dis_rooms(tmp_path)
    rooms = ["s3dis_rooms", "--from", str(tmp_path), "--out", str(tmp_path / "clouds/s3dis_rooms")]
    assert main(["data", "prepare", *rooms, "--partial"]) == 0
    training = "runtime=local,trackers=[],precision=fp32,epochs=1,global_batch=2,ghost_batch=2"
    tiny = "pretrain.image_encoder=lite0,pretrain.image_encoder.input_px=64"
    crops = "finetune.data.num_points=1024,finetune.data.train=[Area_1]"
    overrides = [
        *("meshes=none", f"shards={shards}", f"clouds={tmp_path / 'clouds'}", f"out={tmp_path}"),
        *(f"training=[{training}]", f"more=[{tiny},{crops}]"),
    ]
    whole = load_job(ReproduceJob, compose_config("reproduce", overrides))
    steps = tuple(step for step in whole.steps if "scenes" in step.name or "s3dis" in step.name)
    reproduce.run(dataclasses.replace(whole, steps=steps))
    used = (tmp_path / "s3dis" / "weights.txt").read_text().splitlines()
    told = {line.split()[1]: line.split()[0] for line in used if line.startswith(("used", "init"))}
    assert {told["stem.weight"], told["stem.bias"]} == {"initialised"}
    stages = {fate for name, fate in told.items() if name.startswith("stages.")}
    assert stages == {"used"}
    # The report shows a room by its id.
    (section,) = part_sections([read_finetuning(tmp_path / "s3dis")])
    (shown,) = [block for block in section.blocks if isinstance(block, CloudPairs)]
    assert [pair.title for pair in shown.pairs] == ["Area_5/hallway_6"]
    for name in ("s3dis", "s3dis_scratch"):
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert (result["num_train"], result["num_evaluated"]) == (2, 1)
        # Every raw point is counted.
        assert sum(map(sum, result["confusion"])) == 2000


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
