"""The background changes nothing: what is handed over is what is written, one at a time."""

import threading
from pathlib import Path

import pytest
import torch

from picpoint.train import checkpoint_writer
from picpoint.train.checkpoint import CheckpointError, Retention, newest_checkpoint
from picpoint.train.checkpoint_writer import CheckpointWriter

SETTINGS = {"seed": 0}


def written_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("*.json"))


def test_what_training_changes_later_is_not_in_it(tmp_path, monkeypatch):
    """The write waits until the weights have changed."""
    changed, real = threading.Event(), checkpoint_writer.save_checkpoint

    def late(*arguments):
        assert changed.wait(60)
        return real(*arguments)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", late)
    weight = torch.zeros(3)
    with CheckpointWriter(str(tmp_path), SETTINGS, Retention(3)) as writer:
        writer.save(1, {"model": {"weight": weight, "more": [weight]}, "samples_seen": 4})
        weight.fill_(1)
        changed.set()
    state = newest_checkpoint(tmp_path)[0].state
    assert state["model"]["weight"].tolist() == state["model"]["more"][0].tolist() == [0, 0, 0]


def test_who_waits_too_long_for_a_write_goes_on_and_says_so_once(tmp_path, monkeypatch, caplog):
    written, real = threading.Event(), checkpoint_writer.save_checkpoint

    def late(*arguments):
        assert written.wait(60)
        return real(*arguments)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", late)
    monkeypatch.setattr(checkpoint_writer, "LONGEST_WAIT_S", 0.1)
    with CheckpointWriter(str(tmp_path), SETTINGS, Retention(3)) as writer:
        writer.save(1, {"samples_seen": 4})
        writer.wait_a_while()
        writer.wait_a_while()
        assert written_steps(tmp_path) == []
        written.set()
        monkeypatch.setattr(checkpoint_writer, "LONGEST_WAIT_S", 60)
        writer.save(2, {"samples_seen": 8})
        writer.wait_a_while()
        assert written_steps(tmp_path) == [1, 2]
    assert caplog.text.count("not written after") == 1


def test_never_two_are_written_at_once_and_in_order(tmp_path, monkeypatch):
    real, at_once, most = checkpoint_writer.save_checkpoint, [], []

    def watched(*arguments):
        at_once.append(arguments[1])
        most.append(len(at_once))
        path = real(*arguments)
        at_once.remove(arguments[1])
        return path

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", watched)
    with CheckpointWriter(str(tmp_path), SETTINGS, Retention(9)) as writer:
        for step in range(1, 7):
            writer.save(step, {"samples_seen": step})
    assert most == [1] * 6
    assert written_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_write_that_failed_stops_the_next_one(tmp_path):
    (tmp_path / "file").touch()
    writer = CheckpointWriter(str(tmp_path / "file"), SETTINGS, Retention(1))
    writer.save(1, {"samples_seen": 1})
    with pytest.raises(CheckpointError, match="step 1: no checkpoint"):
        writer.save(2, {"samples_seen": 2})
    writer.__exit__(None, None, None)


def test_the_last_write_s_failure_is_told_at_the_end(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match="step 1: no checkpoint"),
        CheckpointWriter(str(tmp_path / "file"), SETTINGS, Retention(1)) as writer,
    ):
        writer.save(1, {"samples_seen": 1})
