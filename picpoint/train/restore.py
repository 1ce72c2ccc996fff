"""How does a run come back to where it was, or begin where another one is?"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picpoint.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
)
from picpoint.train.state import TrainState

logger = logging.getLogger(__name__)


def restore(
    state: TrainState[Any], folder: str | Path, settings: Mapping[str, Any], resume: str
) -> None:
    """Bring a new state to where its run was, or where another one ended.

    Args:
        state: as `initial_state` gave it.
        folder: of the run's checkpoints, or its URL.
        settings: of the run; the checkpoint must have been made with the same.
        resume: `auto` for the newest whole checkpoint of `folder`, where there is one; `never` for
            none; else a checkpoint's file, or a folder of checkpoints, to begin from while `folder`
            holds none.

    Raises:
        CheckpointError: checkpoints stand in `folder` and none is wanted; the one named is missing
            or damaged, or all are; or it was made with other settings or by another version.
    """
    found, passed_over = newest_checkpoint(folder)
    for line in passed_over:
        logger.warning("passed over: %s", line)
    if resume == "never" and (found is not None or passed_over):
        raise CheckpointError(
            f"{folder} holds checkpoints of an earlier run; continue it with resume=auto, or "
            "choose another `out`"
        )
    if found is None and passed_over:
        raise CheckpointError(
            f"{folder}: none of its {len(passed_over)} checkpoints is whole (the newest: "
            f"{passed_over[0]}); remove them to begin anew"
        )
    if found is None and resume not in ("auto", "never"):
        found = load_named(resume, f"resume={resume}")
    if found is None:
        return
    check_settings(found, settings)
    take_over(state, found)
    logger.info("goes on from %s", found.path)


def load_named(place: str, asked: str) -> Checkpoint:
    """Load the checkpoint that someone named.

    Args:
        place: a run's folder, its folder of checkpoints, or one step-*.pt; or the URL of any.
        asked: how it was named, for messages.

    Raises:
        CheckpointError: it holds none, or its newest is damaged.
    """
    if place.endswith(".pt"):
        return load_checkpoint(place)
    for folder in (place, f"{place}/checkpoints"):
        found, passed_over = newest_checkpoint(folder)
        if passed_over:
            raise CheckpointError(f"{asked}: {passed_over[0]}; name a whole one")
        if found is not None:
            return found
    raise CheckpointError(
        f"{asked}: holds no checkpoint; name a run's folder, its folder of checkpoints, or one "
        "step-*.pt"
    )


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


def take_over(state: TrainState[Any], checkpoint: Checkpoint) -> None:
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
