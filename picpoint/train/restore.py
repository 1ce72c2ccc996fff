"""How does a run come back to where it was, or begin where another one is?"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from picpoint.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
)
from picpoint.train.differences import name_differences
from picpoint.train.state import TrainState

logger = logging.getLogger(__name__)


def restore(
    state: TrainState[Any],
    folder: str | Path,
    settings: Mapping[str, Any],
    resume: str,
    may_differ: Collection[str] = (),
) -> None:
    """Bring a new state to where its run was, or where another one ended.

    Args:
        state: as `initial_state` gave it.
        folder: of the run's checkpoints, or its URL.
        settings: of the run; the checkpoint must have been made with the same.
        resume: `auto` for the newest whole checkpoint of `folder`, where there is one; `never` for
            none; else a checkpoint's file, or a folder of checkpoints, to begin from while `folder`
            holds none.
        may_differ: names of settings that may be others than those of a checkpoint so named.

    Raises:
        CheckpointError: checkpoints stand in `folder` and none is wanted; the one named is missing
            or damaged, or all are; or it was made with other settings or by another version.
    """
    found = own_checkpoint(folder, resume)
    if found is not None:
        check_settings(
            found,
            settings,
            "set them back to go on with that run, or choose another `out`, and another "
            "`checkpoints` if you have set one, for a new run",
        )
    elif resume not in ("auto", "never"):
        found = named_checkpoint(resume, settings, may_differ)
    if found is None:
        return
    take_over(state, found)
    logger.info("goes on from %s", found.path)


def own_checkpoint(folder: str | Path, resume: str) -> Checkpoint | None:
    """Load the newest whole checkpoint of a run's own folder, where it has any.

    Args:
        folder: or the URL of a bucket's prefix.
        resume: `never` where there must be none.

    Raises:
        CheckpointError: there are, and must not be; or none of them is whole.
    """
    found, passed_over = newest_checkpoint(folder)
    for line in passed_over:
        logger.warning("passed over: %s", line)
    if resume == "never" and (found is not None or passed_over):
        raise CheckpointError(
            f"{folder} holds checkpoints of an earlier run; continue it with resume=auto, or "
            "choose another `out`, and another `checkpoints` if you have set one"
        )
    if found is None and passed_over:
        raise CheckpointError(
            f"{folder}: none of its {len(passed_over)} checkpoints is whole (the newest: "
            f"{passed_over[0]}); remove them to begin anew"
        )
    return found


def named_checkpoint(
    resume: str, settings: Mapping[str, Any], may_differ: Collection[str] = ()
) -> Checkpoint:
    """Load the checkpoint of another run that this one is to begin from.

    Args:
        resume: its file, its folder or its run's folder.
        settings: of this run; both must have the same.
        may_differ: names of those that do not matter here.

    Raises:
        CheckpointError: it is missing or damaged, or was made with other settings.
    """
    found = load_named(resume, f"resume={resume}")
    check_settings(
        found,
        settings,
        "a run goes on from a checkpoint only with the settings that it was made with: take them "
        "over, name a checkpoint of these settings, or begin with new weights by resume=auto "
        "(pre-training: a few may change, where resume_changes names them)",
        may_differ,
    )
    return found


def load_named(place: str, asked: str) -> Checkpoint:
    """Load the checkpoint that someone named, whatever it was made with.

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
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    remedy: str,
    may_differ: Collection[str] = (),
) -> None:
    """Make sure that a checkpoint was made with some settings, of `run_settings`.

    Args:
        checkpoint: to be used.
        settings: that it is to be used with.
        remedy: what can be done where they are others.
        may_differ: names of those that do not matter here.

    Raises:
        CheckpointError: it was made with others; the message names each.
    """
    changed = name_differences(checkpoint.settings, settings, may_differ)
    if changed:
        raise CheckpointError(
            f"{checkpoint.path} was made with other settings ({changed}): {remedy}"
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
