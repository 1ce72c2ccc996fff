import dataclasses
import json
from pathlib import Path

import pytest
import torch

import picpoint.train.pretrain as loop
from picpoint.data.split import held_out
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.train.pretrain import STOP_FILE, NonFiniteLossError
from picpoint.train.settings import PretrainConfig
from shards.reader import ShardReader


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return checkpoint.state["model"]


def assert_same_weights(first: Path, second: Path) -> None:
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_training_lowers_the_loss(train) -> None:
    reports = train(epochs=15)
    first = sum(report.loss for report in reports[:6])
    last = sum(report.loss for report in reports[-6:])
    assert last < 0.9 * first


def test_ten_steps_are_five_a_restart_and_five_bit_for_bit(train, tmp_path) -> None:
    # 15 training shapes in batches of 4 make 3 steps an epoch: the cut is inside an epoch.
    train("whole", epochs=4, checkpoint_every=5)
    train("cut", epochs=4, checkpoint_every=5, steps=5)
    resumed = train("cut", epochs=4, checkpoint_every=5, resume=True)
    assert resumed[0].step == 6
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_kill_between_checkpoints_loses_only_the_steps_since(train, tmp_path) -> None:
    train("whole")
    train("killed", steps=5)  # the last checkpoint is that of step 3
    assert train("killed", resume=True)[0].step == 4
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_the_log_of_a_resumed_run_has_each_step_once(train, tmp_path) -> None:
    whole = [report.step for report in train("whole")]
    train("killed", steps=5)
    train("killed", resume=True)
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == whole


def test_a_stop_file_saves_and_ends_the_run(train, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STOP_FILE).touch()
    assert len(train("run")) == 1
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["samples_seen"] == 4


def test_a_folder_with_checkpoints_is_not_overwritten(train) -> None:
    train("run", steps=3)
    with pytest.raises(CheckpointError, match="resume=true"):
        train("run")


def test_a_checkpoint_of_other_settings_is_refused_and_the_setting_named(train) -> None:
    train("run", steps=3)
    with pytest.raises(CheckpointError, match="global_batch was 4, is 6"):
        train("run", resume=True, global_batch=6)


def test_a_finished_run_resumes_to_nothing(train) -> None:
    train("run")
    assert train("run", resume=True) == []


def test_held_out_shapes_are_never_read(train, monkeypatch, tiny_config) -> None:
    """Watch the real reader: which samples does it hand out?"""
    asked: set[int] = set()
    read = ShardReader.read

    def watched(self, request):
        if request.views:  # cameras are read from sample 0, without pictures
            asked.add(request.sample_index)
        return read(self, request)

    monkeypatch.setattr(ShardReader, "read", watched)
    train(epochs=6)
    manifest = ShardReader(tiny_config.data.shards).manifest
    mask = held_out(manifest.keys, manifest.labels, tiny_config.data.holdout)
    assert asked == {i for i in range(len(mask)) if not mask[i]}


def test_a_loss_that_is_no_number_stops_before_the_update(train, tmp_path, monkeypatch) -> None:
    train("run", steps=3)
    before = weights(tmp_path / "run")
    real = loop.pretraining_loss

    def poisoned(*arguments):
        terms = real(*arguments)
        return dataclasses.replace(terms, total=terms.total * float("nan"))

    monkeypatch.setattr(loop, "pretraining_loss", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 3"):
        train("run", resume=True)
    assert all(
        torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items()
    )


def test_more_shapes_a_batch_than_there_are_is_refused(train) -> None:
    with pytest.raises(ValueError, match=r"global_batch=64.*holds only 14"):
        train(global_batch=64)


def test_reports_are_of_the_run(train, tiny_config: PretrainConfig) -> None:
    reports = train()
    assert [report.step for report in reports] == list(range(1, 13))
    assert reports[-1].samples_seen == 48
    assert reports[0].lr == tiny_config.optim.lr
    assert reports[-1].lr < 0.05 * tiny_config.optim.lr
    assert all(report.grad_norm > 0 and 0 <= report.data_wait <= 1 for report in reports)
    assert all(1 <= report.effective_rank <= 4.001 for report in reports)
