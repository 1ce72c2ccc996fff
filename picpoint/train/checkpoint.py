"""How does a state reach the disk whole, or not at all?

A checkpoint is a pair: `step-00000120.pt`, and `step-00000120.json`, the commit marker with its
SHA-256 and the settings of the run. The marker is written last; without it, or with another hash, a
file is not a checkpoint.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from picpoint.train.state import TrainState

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, found or continued."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose marker and hash agree.

    Attributes:
        path: the file of tensors.
        state: what `TrainState.state_dict` gave.
        settings: the settings that the run was made with, flat.
    """

    path: Path
    state: dict[str, Any]
    settings: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], settings: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    marker = {"sha256": hashlib.sha256(content).hexdigest(), "settings": dict(settings)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _publish(path, content)
        _publish(path.with_suffix(".json"), json.dumps(marker, indent=1).encode())
    except OSError as error:
        raise CheckpointError(
            f"{path}: not written ({error.strerror}); free space or choose another `out`"
        ) from error
    for old in _markers(folder)[:-keep]:
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Load the newest whole checkpoint.

    Returns:
        The checkpoint, or None where there is none, and one line for each damaged one passed over.
    """
    passed_over: list[str] = []
    for marker in reversed(_markers(folder)):
        try:
            return load_checkpoint(marker.with_suffix(".pt")), tuple(passed_over)
        except CheckpointError as error:
            passed_over.append(str(error))
    return None, tuple(passed_over)


def restore(state: TrainState, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Continue from the newest whole checkpoint of a folder, where that is wanted.

    Raises:
        CheckpointError: checkpoints stand there unasked, or they were made with other settings.
    """
    found, passed_over = newest_checkpoint(folder)
    for line in passed_over:
        logger.warning("passed over: %s", line)
    if found is None:
        return
    if not resume:
        raise CheckpointError(
            f"{folder} holds checkpoints of an earlier run; continue it with resume=true, or "
            "choose another `out`"
        )
    stored = found.settings
    changed = [
        f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted(stored.keys() | settings.keys())
        if stored.get(key) != settings.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{found.path} was made with other settings ({'; '.join(changed)}); set them back, "
            "or choose another `out`"
        )
    state.load_state_dict(found.state)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint, reading tensors only.

    Raises:
        CheckpointError: the file or its marker is missing, or the hash differs.
    """
    try:
        marker = json.loads(path.with_suffix(".json").read_text())
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: missing; a checkpoint is a .pt file and its .json marker"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: damaged marker") from error
    if hashlib.sha256(content).hexdigest() != marker["sha256"]:
        raise CheckpointError(f"{path}: content differs from its marker's SHA-256; not used")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return Checkpoint(path=path, state=state, settings=marker["settings"])


def _markers(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.json"))


def _publish(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
