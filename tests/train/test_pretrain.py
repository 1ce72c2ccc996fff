import dataclasses
import json
import logging
import time
from pathlib import Path

import pytest
import torch

import picpoint.train.pretrain as loop
import picpoint.train.step as step
from picpoint.data.split import held_out
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.train import checkpoint_writer, notice
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.train.claim import ClaimError
from picpoint.train.collapse import EmbeddingHealth
from picpoint.train.finite import NonFiniteLossError
from picpoint.train.settings import PretrainConfig
from picpoint.train.stop import STOP_FILE
from shards.reader import ShardReader

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ten_steps_are_five_a_restart_and_five_bit_for_bit(train, tmp_path, precision) -> None:
    # 14 training shapes in batches of 4 make 3 steps an epoch: the cut is inside an epoch.
    settings = {"precision": precision, "epochs": 4, "checkpoint_every": 5}
    train("whole", **settings)
    train("cut", **settings, steps=5)
    resumed = train("cut", **settings, resume="auto")
    assert resumed[0].step == 6
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_pointnext_learns_and_resumes_bit_for_bit(train, tmp_path) -> None:
    encoder = PointNextConfig(
        width=4, strides=(2, 2), blocks=(0, 1), radius=0.6, num_neighbours=6, local_stage=1
    )
    settings = {"point_encoder": encoder, "epochs": 6, "checkpoint_every": 5}
    reports = train("whole", **settings)
    local = [report.loss_local for report in reports]
    assert sum(local[-6:]) < 0.9 * sum(local[:6])
    train("cut", **settings, steps=5)
    assert train("cut", **settings, resume="auto")[0].step == 6
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_kill_between_checkpoints_loses_only_the_steps_since(train, tmp_path) -> None:
    train("whole")
    train("killed", steps=5)  # the last checkpoint is that of step 3
    assert train("killed", resume="auto")[0].step == 4
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_no_step_is_told_of_before_the_checkpoint_ahead_of_it_is_written(
    train, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, told = checkpoint_writer.save_checkpoint, {}

    def slow(folder: str, step: int, *rest: object) -> str:
        time.sleep(0.5)  # some thirty of these steps
        told[step] = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        return real(folder, step, *rest)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    train("run")
    assert told == {step: step for step in (3, 6, 9, 12)}


def test_the_log_of_a_resumed_run_has_each_step_once(train, tmp_path) -> None:
    whole = [report.step for report in train("whole")]
    train("killed", steps=5)
    train("killed", resume="auto")
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == whole


def test_a_stop_file_saves_and_ends_the_run(train, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STOP_FILE).touch()
    assert len(train("run")) == 1
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["samples_seen"] == 4


def test_machines_that_will_be_taken_make_a_checkpoint_once(
    tiny_config: PretrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # One machine is to go at step 2, another at step 5; at step 6 the first is gone.
    answers = map(frozenset, ["", "b", "b", "b", "ab", "a", "a"])
    config = dataclasses.replace(tiny_config, checkpoint_every=100, keep_checkpoints=10)
    reports = loop.pretrain(config, tmp_path, CPU, notice=lambda: next(answers))
    kept = []
    for _ in range(7):
        next(reports)
        newest, _ = newest_checkpoint(tmp_path / "checkpoints")
        kept.append(newest and newest.state["samples_seen"] // 4)
    reports.close()
    assert kept == [None, 2, 2, 2, 5, 5, 5]
    assert [record.args for record in caplog.records if "taken" in record.msg] == [("b",), ("a",)]


@pytest.mark.parametrize(("every_s", "steps"), [(0.0, [1, 2, 3, 4, 5, 6]), (1e6, [3, 6])])
def test_notices_are_asked_for_by_time_however_rare_the_lines_of_the_log_are(
    tiny_config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s, steps
) -> None:
    monkeypatch.setattr(notice, "ASK_EVERY_S", every_s)
    config = dataclasses.replace(tiny_config, log_every=3, checkpoint_every=100)
    run_step = loop.train_step
    made, asked = [], []

    def count(*arguments: object) -> object:
        made.append(arguments)
        return run_step(*arguments)

    def answer() -> frozenset[str]:
        asked.append(len(made))
        return frozenset("a") if len(made) >= 2 else frozenset()

    monkeypatch.setattr(loop, "train_step", count)
    reports = loop.pretrain(config, tmp_path, CPU, notice=answer)
    assert [next(reports).step for _ in range(2)] == [3, 6]
    reports.close()
    assert asked == steps
    newest, _ = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.state["samples_seen"] // 4 == next(step for step in steps if step >= 2)


def test_a_folder_with_checkpoints_is_not_overwritten(train) -> None:
    train("run", steps=3)
    with pytest.raises(CheckpointError, match="resume=auto"):
        train("run")


def test_a_checkpoint_of_other_settings_is_refused_and_the_setting_named(train) -> None:
    train("run", steps=3)
    with pytest.raises(ClaimError, match="global_batch was 4, is 6"):
        train("run", resume="auto", global_batch=6)


def test_a_run_that_pauses_and_another_that_goes_on_are_one(train, tmp_path) -> None:
    whole = train("whole")
    first = train("first", pause_after=1)
    assert [report.step for report in first] == [1, 2, 3]
    rest = train("rest", resume=str(tmp_path / "first"))
    # The schedule is that of the whole, not of the part.
    assert [report.lr for report in [*first, *rest]] == [report.lr for report in whole]
    assert first[0].total_steps == whole[0].total_steps
    assert_same_weights(tmp_path / "whole", tmp_path / "rest")


def test_what_may_change_changes_where_a_run_goes_on(train, tiny_config, tmp_path) -> None:
    whole = train("whole")
    train("first", pause_after=2)
    optim = dataclasses.replace(tiny_config.optim, lr=3e-3, weight_decay=0.5)
    loss = dataclasses.replace(tiny_config.loss, temperature=0.2)
    first, changes = str(tmp_path / "first"), {"optim": optim, "loss": loss}
    with pytest.raises(CheckpointError, match=r"optim\.lr was 0\.01, is 0\.003.*resume_changes"):
        train("refused", resume=first, resume_changes=("loss.temperature",), **changes)
    names = ("optim.lr", "optim.weight_decay", "loss.temperature")
    rest = train("rest", resume=first, resume_changes=names, **changes)
    # At the same place of the same schedule.
    assert [report.lr for report in rest] == pytest.approx([0.3 * r.lr for r in whole[6:]])
    assert {report.temperature for report in rest} == {0.2}
    checkpoint, _ = newest_checkpoint(tmp_path / "rest" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    # A kill of it: its own checkpoint is one of its own settings.
    train("killed", resume=first, resume_changes=names, **changes, steps=4)
    assert train("killed", resume=first, resume_changes=names, **changes)[0].step == 10
    assert_same_weights(tmp_path / "rest", tmp_path / "killed")


def test_what_cannot_change_in_the_midst_of_a_run_is_named(tiny_config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"seed, global_batch cannot change.*optim\.lr"):
        dataclasses.replace(tiny_config, resume_changes=("seed", "optim.lr", "global_batch"))
    learnt = dataclasses.replace(tiny_config.loss, learn_temperature=True)
    with pytest.raises(ValueError, match="is not looked at again"):
        dataclasses.replace(tiny_config, loss=learnt, resume_changes=("loss.temperature",))
    assert tiny_config.epochs_told == "4"
    assert dataclasses.replace(tiny_config, pause_after=1).epochs_told == "1 of 4"
    with pytest.raises(ValueError, match="at most epochs=4"):
        dataclasses.replace(tiny_config, pause_after=5)


def test_a_finished_run_resumes_to_nothing(train) -> None:
    train("run")
    assert train("run", resume="auto") == []


def test_held_out_shapes_are_never_read(train, monkeypatch, tiny_config) -> None:
    """Watch the real reader: which samples does it hand out?"""
    asked: set[int] = set()
    stream = ShardReader.stream

    def watched(self, requests, read_ahead):
        def noted():
            for request in requests:
                asked.add(request.sample_index)
                yield request

        return stream(self, noted(), read_ahead)

    monkeypatch.setattr(ShardReader, "stream", watched)
    train(epochs=6)
    manifest = ShardReader(tiny_config.data.shards).manifest
    mask = held_out(manifest, tiny_config.data.holdout)
    assert asked == {i for i in range(len(mask)) if not mask[i]}


def test_a_run_begins_where_another_one_is(train, tmp_path) -> None:
    whole = train("whole")
    train("first", steps=7)
    rest = train("second", resume=str(tmp_path / "first"))
    assert [report.loss for report in rest] == [report.loss for report in whole[6:]]
    # From a finished run there is nothing to train; what it came to is in the new one's folder.
    assert train("third", resume=str(tmp_path / "second" / "checkpoints")) == []
    found = weights(tmp_path / "third")
    assert all(
        torch.equal(found[name], value) for name, value in weights(tmp_path / "whole").items()
    )
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        train("fourth", resume=str(tmp_path / "nowhere"))


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(train, tmp_path) -> None:
    train("run", steps=4)
    for path in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        path.unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is whole"):
        train("run", resume="auto")


def test_a_loss_that_is_no_number_stops_before_the_update(train, tmp_path, monkeypatch) -> None:
    train("run", steps=3)
    before = weights(tmp_path / "run")
    real = step.pretraining_loss

    def poisoned(*arguments):
        terms = real(*arguments)
        return dataclasses.replace(terms, total=terms.total * float("nan"))

    monkeypatch.setattr(step, "pretraining_loss", poisoned)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 3") as raised:
        train("run", resume="auto")
    assert "\n" not in str(raised.value)
    told = json.loads((tmp_path / "run" / "nonfinite-step-00000003-rank-0.json").read_text())
    assert (told["figure"], told["value"], len(told["keys"])) == ("loss", "nan", 4)
    assert all(
        torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items()
    )


def test_a_gradient_that_is_no_number_stops_before_the_update(train, monkeypatch) -> None:
    """The loss is finite: the root of nothing has an infinite slope."""
    real, steps = step.pretraining_loss, []

    def poisoned(*arguments):
        terms = real(*arguments)
        nothing = (terms.total - terms.total.detach()).abs().sqrt()
        return dataclasses.replace(terms, total=terms.total + nothing)

    monkeypatch.setattr(step, "pretraining_loss", poisoned)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: steps.append(self))
    with pytest.raises(NonFiniteLossError, match="the gradient norm is nan at step 0"):
        train("run")
    assert not steps


def test_a_collapse_is_warned_of_once(train, monkeypatch, caplog) -> None:
    collapsed = EmbeddingHealth(num_shapes=8, alignment=0.0, uniformity=0.0, effective_rank=1.2)
    monkeypatch.setattr(loop, "measure_embeddings", lambda *arguments: collapsed)
    with caplog.at_level(logging.WARNING):
        reports = train("run", epochs=2)
    assert len(reports) > 2
    assert [report.effective_rank for report in reports] == [1.2] * len(reports)
    assert len([r for r in caplog.records if "embeddings are collapsing" in r.message]) == 1


def test_skipped_samples_are_reported(train, tiny_config, tmp_path, damage_sample) -> None:
    shards = damage_sample(Path(tiny_config.data.shards), tmp_path, first_trained(tiny_config))
    data = dataclasses.replace(tiny_config.data, shards=str(shards), on_corrupt="skip_and_count")
    reports = train("run", data=data)
    counts = [report.num_corrupt for report in reports]
    assert counts == sorted(counts)
    # 4 epochs of 12 of 14 shapes each: the damaged one is in most of them.
    assert 1 <= counts[-1] <= 4


def first_trained(config: PretrainConfig) -> int:
    manifest = ShardReader(config.data.shards).manifest
    return int((~held_out(manifest, config.data.holdout)).argmax())


def test_a_checkpoint_of_another_network_is_refused_in_one_line(train, monkeypatch) -> None:
    """The settings are the same and the code is not."""
    train("run", steps=3)
    real = loop.initial_state

    def other(*arguments):
        state = real(*arguments)
        state.model.register_buffer("novelty", torch.zeros(1))
        return state

    monkeypatch.setattr(loop, "initial_state", other)
    with pytest.raises(CheckpointError, match="another version") as raised:
        train("run", resume="auto")
    assert "\n" not in str(raised.value)


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
    assert all(-8.001 <= report.uniformity <= 0 <= report.alignment for report in reports)
    assert all(report.num_corrupt == 0 for report in reports)
