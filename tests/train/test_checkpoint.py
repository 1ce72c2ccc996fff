import errno
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import torch

from picpoint.train.checkpoint import (
    CheckpointError,
    Retention,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def damage(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


SETTINGS = {"optim.lr": 1e-3, "widths": [8, 8]}


def state(step: int) -> dict[str, object]:
    return {"model": {"weight": torch.full((3,), float(step))}, "samples_seen": step}


def save(folder: Path, step: int, keep: int = 3, milestone_every: int = 0) -> Path:
    retention = Retention(keep, milestone_every)
    return Path(save_checkpoint(folder, step, state(step), SETTINGS, retention))


def steps_in(folder: Path) -> list[int]:
    """Steps of the whole pairs; nothing else may lie there."""
    names = sorted(path.name for path in folder.iterdir())
    pairs = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    assert sorted(names) == sorted(
        f"{pair}.{suffix}" for pair in pairs for suffix in ("json", "pt")
    )
    return sorted(int(pair.split("-")[1]) for pair in pairs)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 7))
    assert torch.equal(loaded.state["model"]["weight"], torch.full((3,), 7.0))
    assert loaded.state["samples_seen"] == 7
    assert loaded.settings == SETTINGS


def test_the_newest_is_chosen_by_step_and_old_ones_go(tmp_path: Path) -> None:
    for step in (9, 10, 99, 100):
        save(tmp_path, step, keep=2)
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["samples_seen"] == 100
    assert not passed_over
    assert len(list(tmp_path.iterdir())) == 4  # two files and their markers


def test_checkpoints_that_a_resume_took_back_go(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        save(tmp_path, step)
    for path in tmp_path.glob("step-0000000[69]-*.pt"):
        damage(path, b"damaged")
    save(tmp_path, 4, keep=1)
    assert steps_in(tmp_path) == [4]
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["samples_seen"] == 4
    assert not passed_over


def test_steps_of_more_than_eight_digits_are_the_newer_ones(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, keep=1)
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["samples_seen"] == 100_000_000


def test_keeping_no_checkpoint_is_refused_before_any_goes(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="keep_checkpoints=0"):
        save(tmp_path, 2, keep=0)
    assert steps_in(tmp_path) == [1]


def test_milestones_stay_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 12):
        save(tmp_path, step, keep=2, milestone_every=4)
    assert steps_in(tmp_path) == [4, 8, 10, 11]


def test_the_same_step_again_takes_the_place_of_the_other(tmp_path: Path) -> None:
    """On another number of ranks the same steps round otherwise."""
    save(tmp_path, 5)
    other = {"model": {"weight": torch.zeros(3)}, "samples_seen": 5}
    again = save_checkpoint(tmp_path, 5, other, SETTINGS, Retention(3))
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.path == again
    assert steps_in(tmp_path) == [5]


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_damaged_checkpoint_is_written_again_when_its_step_comes_again(
    tmp_path: Path, suffix: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2).with_suffix(suffix)
    damage(path, path.read_bytes()[:-3])
    save(tmp_path, 2)
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest is not None
    assert (newest.state["samples_seen"], passed_over) == (2, ())


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).with_suffix(".json").unlink()
    save(tmp_path, 3)
    assert steps_in(tmp_path) == [1, 3]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, ())


@pytest.mark.parametrize("harm", ["cut", "flip", "lost", "marker", "marker of nothing"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, harm: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    content = path.read_bytes()
    match harm:
        case "cut":
            damage(path, content[:-100])
        case "flip":
            damage(path, content[:200] + bytes([content[200] ^ 1]) + content[201:])
        case "lost":
            path.unlink()
        case "marker":
            damage(path.with_suffix(".json"), b"{")
        case "marker of nothing":
            damage(path.with_suffix(".json"), b"[]")
    newest, passed_over = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["samples_seen"] == 1
    assert len(passed_over) == 1
    assert "step-00000002" in passed_over[0]


def test_a_file_without_its_marker_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).with_suffix(".json").unlink()
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["samples_seen"] == 1


def test_a_full_disk_leaves_the_last_checkpoint_and_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path, 2)
    assert steps_in(tmp_path) == [1]


def test_a_pickled_object_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    buffer = io.BytesIO()
    torch.save({"model": Path("x")}, buffer)
    damage(path, buffer.getvalue())
    marker = {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "settings": {}}
    damage(path.with_suffix(".json"), json.dumps(marker).encode())
    with pytest.raises(CheckpointError, match="more than tensors") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)
