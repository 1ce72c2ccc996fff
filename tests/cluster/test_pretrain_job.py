"""What a run tells reaches whoever follows it, from any number of ranks."""

import json
from pathlib import Path

import pytest
import torch
from test_trackers import events_in
from tiny_run import TINY_RUN

from cluster.app import main
from cluster.trackers import Trackers, _WeightsAndBiases
from picpoint.train.checkpoint import newest_checkpoint

RUN = [
    *(*TINY_RUN, "global_batch=4", "ghost_batch=2", "epochs=2", "log_every=1"),
    *("data.holdout.validation_fold=1", "runtime.num_workers=2", "runtime.threads_per_worker=1"),
]


def run(shard_set: Path, out: Path, *more: str) -> int:
    return main(["pretrain", f"data.shards={shard_set}", f"out={out}", *RUN, *more])


def weights(out: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    return checkpoint.state["model"]


@pytest.mark.slow
def test_probes_of_two_ranks_are_followed_and_change_no_weight(shard_set, tmp_path, capsys):
    assert run(shard_set, tmp_path / "without") == 0
    assert run(shard_set, tmp_path / "probed", "probe.every=1000") == 0
    told = (tmp_path / "probed" / "probes.jsonl").read_text().splitlines()
    accuracy = {line["step"]: line["accuracy"] for line in map(json.loads, told)}
    assert sorted(accuracy) == [0, 4]
    mine, other = weights(tmp_path / "probed"), weights(tmp_path / "without")
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    events = events_in(tmp_path / "probed" / "tensorboard")
    for step, value in accuracy.items():
        assert events["probe_accuracy", step] == pytest.approx(value)
    assert f"probe {accuracy[4]:.1%} (step 4)" in capsys.readouterr().err


def test_a_probe_may_be_asked_for_when_a_run_goes_on(shard_set, tmp_path):
    """It is no part of what the run is."""
    one = ["runtime.num_workers=1"]
    assert run(shard_set, tmp_path / "run", *one) == 0
    (tmp_path / "run" / "pretrain.done.json").unlink()
    assert run(shard_set, tmp_path / "run", *one, "probe.every=1000") == 0
    (told,) = (tmp_path / "run" / "probes.jsonl").read_text().splitlines()
    assert json.loads(told)["step"] == 4


def test_a_run_that_paused_says_how_it_is_gone_on_with(shard_set, tmp_path, capsys):
    out, one = tmp_path / "run", ["runtime.num_workers=1"]
    assert run(shard_set, out, *one, "pause_after=1") == 0
    assert run(shard_set, out, *one, "optim.lr=2e-3", "optim.min_lr=0") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "(optim.lr was 0.001, is 0.002; pause_after was 1, is 0)" in line
    advice = f"to go on from where it paused give resume={out} and an `out` of its own"
    assert f"pauses after epoch 1: {advice}" in line
    # As it is told.
    follow = [f"resume={out}", "resume_changes=[optim.lr]", "optim.lr=2e-3"]
    assert run(shard_set, tmp_path / "other", *one, *follow) == 0
    told = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(each)["step"] for each in told] == [3, 4]
    # Of a run that was to go to its end nothing of the kind is said.
    assert run(shard_set, tmp_path / "other", *one, "epochs=9") == 2
    assert "where it paused" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "needs"),
    [
        (["point_encoder=dgcnn", "data.num_points=15"], "dgcnn needs 20 points"),
        (["point_encoder=pointnext_s", "data.num_points=15"], "pointnext_s needs 16 points"),
    ],
)
def test_clouds_too_small_for_the_encoder_are_refused_before_anything_is_written(
    tmp_path, capsys, encoder, needs
):
    assert main(["pretrain", "data.shards=s", f"out={tmp_path / 'run'}", *encoder]) == 2
    assert f"data.num_points=15: {needs} or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_of_the_probes(shard_set, tmp_path, capsys):
    assert run(shard_set, tmp_path / "run", "probe.every=9", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "probe  every 9 samples" in told
    assert "validation (fold 1 of 5, by shape)" in told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("data.holdout.validation_fold=null", "data.holdout.validation_fold=1"),
        ("data.holdout.validation_fold=0", "is the test fold"),
        ("data.holdout.num_folds=0", "there are no folds"),
    ],
)
def test_probes_of_no_shapes_of_their_own_are_refused_before_anything_is_written(
    shard_set, tmp_path, capsys, wrong, told
):
    assert run(shard_set, tmp_path / "run", "probe.every=9", wrong) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_probe_that_comes_late_is_sent_once_with_its_own_step(tmp_path):
    probes = [{"step": step, "accuracy": step / 8, "seconds": 1.0} for step in (2, 4, 4)]
    with Trackers(["tensorboard"], tmp_path, {}, 2) as trackers:
        for step in range(3, 9):
            trackers.log({"step": step, "loss": 0.0})
        for probe in [{"step": 1, "accuracy": 9.0, "seconds": 1.0}, *probes]:
            trackers.log_probe(probe)
    events = events_in(tmp_path / "tensorboard")
    assert {step: value for (tag, step), value in events.items() if tag == "probe_accuracy"} == {
        2: 0.25,
        4: 0.5,
    }


def test_weights_and_biases_gets_a_late_figure_with_the_newest_step_and_its_own_beside_it():
    """It drops what comes with an earlier step than it has seen."""

    class Kept:
        sent = ()

        def log(self, figures, step):
            self.sent += ((step, figures),)

    tracker = _WeightsAndBiases.__new__(_WeightsAndBiases)
    tracker._run, tracker._last_step = Kept(), 0
    tracker.log(5, {"loss": 1.0})
    tracker.log(3, {"probe_accuracy": 0.5})
    tracker.log(6, {"loss": 0.9})
    assert tracker._run.sent == (
        (5, {"loss": 1.0}),
        (5, {"probe_accuracy": 0.5, "probe_step": 3}),
        (6, {"loss": 0.9}),
    )
