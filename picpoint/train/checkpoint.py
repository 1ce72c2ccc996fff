"""How does a state reach the disk whole, or not at all?

A checkpoint is a pair: `step-00000120.pt`, and `step-00000120.json`, the commit marker with its
SHA-256 and the settings of the run. The marker is written last; without it, or with another hash, a
file is not a checkpoint.
"""

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from picpoint.publish import publish_bytes, publish_text
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

    Those of later steps go too: a resume from an earlier one took them back.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
        ValueError: not even this one is to be kept.
    """
    if keep < 1:
        raise ValueError(f"keep_checkpoints={keep}: must be at least 1, the one being written")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    commit = {"sha256": hashlib.sha256(content).hexdigest(), "settings": dict(settings)}
    try:
        publish_bytes(content, path)
        publish_text(json.dumps(commit, indent=1), path.with_suffix(".json"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: not written ({error.strerror}); free space or choose another `out`"
        ) from error
    markers = _markers(folder)
    kept = [marker for marker in markers if _step_of(marker) <= step][-keep:]
    for marker in markers:
        if marker not in kept:
            marker.unlink()
            marker.with_suffix(".pt").unlink(missing_ok=True)
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
        CheckpointError: checkpoints stand there unasked, or they were made with other settings or
            by another version.
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
    check_settings(found, settings)
    take_over(state, found)


def check_settings(
    checkpoint: Checkpoint, settings: Mapping[str, Any], may_differ: Sequence[str] = ()
) -> None:
    """Make sure that a checkpoint was made with some settings, of `run_settings`.

    Args:
        checkpoint: to be used.
        settings: that it is to be used with.
        may_differ: names of those that do not matter here.

    Raises:
        CheckpointError: it was made with others; the message names each.
    """
    stored = checkpoint.settings
    changed = [
        f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted(stored.keys() | settings.keys())
        if key not in may_differ and stored.get(key) != settings.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{checkpoint.path} was made with other settings ({'; '.join(changed)}); set them "
            "back, or choose another `out`"
        )


def take_over(state: TrainState, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a state.

    Raises:
        CheckpointError: the two do not have the same tensors.
    """
    try:
        state.load_state_dict(checkpoint.state)
    except (KeyError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise CheckpointError(
            f"{checkpoint.path} was made by another version of picpoint ({told}); continue with "
            "that one, or train again"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint, reading tensors only.

    Raises:
        CheckpointError: the file or its marker is missing or damaged, or holds more than tensors.
    """
    try:
        marker = json.loads(path.with_suffix(".json").read_text())
        sha256, settings = marker["sha256"], marker["settings"]
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: missing; a checkpoint is a .pt file and its .json marker"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path.with_suffix('.json')}: damaged marker") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path}: content differs from its marker's SHA-256; not used")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values; not used"
        ) from error
    return Checkpoint(path=path, state=state, settings=settings)


def _markers(folder: Path) -> list[Path]:
    """List the commit markers, oldest step first."""
    return sorted(folder.glob("step-[0-9]*.json"), key=_step_of)


def _step_of(marker: Path) -> int:
    return int(marker.stem.removeprefix("step-"))
