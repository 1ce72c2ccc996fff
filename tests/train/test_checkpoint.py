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
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

SETTINGS = {"optim.lr": 1e-3, "widths": [8, 8]}


def state(step: int) -> dict[str, object]:
    return {"model": {"weight": torch.full((3,), float(step))}, "samples_seen": step}


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, step, state(step), SETTINGS, keep)


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


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, ())


@pytest.mark.parametrize("damage", ["cut", "flip", "lost", "marker"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-100])
        case "flip":
            path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        case "lost":
            path.unlink()
        case "marker":
            path.with_suffix(".json").write_text("{")
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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000001.json",
        "step-00000001.pt",
    ]


def test_a_pickled_object_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    buffer = io.BytesIO()
    torch.save({"model": Path("x")}, buffer)
    path.write_bytes(buffer.getvalue())
    marker = {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "settings": {}}
    path.with_suffix(".json").write_text(json.dumps(marker))
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_checkpoint(path)
