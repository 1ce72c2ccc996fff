"""How does a state reach the disk or the bucket whole, or not at all?

A checkpoint is two objects: `step-00000120-3f2a9c01.pt`, named by step and content, and its commit
marker `step-00000120-3f2a9c01.json`, with its SHA-256 and the settings of the run. The marker is
written last; without it, or with another hash, a file is no checkpoint. Nothing is overwritten.
"""

import hashlib
import io
import json
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from picpoint.train.claim import Claim
from shards.errors import AlreadyInStoreError, NotFoundInStoreError, StoreError
from shards.store import Store, open_store, put_once

logger = logging.getLogger(__name__)

_MARKER = re.compile(r"step-(\d{8,})-[0-9a-f]{8}\.json")
_TENSORS = re.compile(r"step-\d{8,}-[0-9a-f]{8}\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, found or continued."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose marker and hash agree.

    Attributes:
        path: the file of tensors, or its URL.
        state: what `TrainState.state_dict` gave.
        settings: the settings that the run was made with, flat.
    """

    path: str
    state: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay.

    Attributes:
        newest: how many of the newest.
        milestone_every: those of steps that this divides stay for good; 0 for none.
    """

    newest: int
    milestone_every: int = 0

    def __post_init__(self) -> None:
        if self.newest < 1:
            raise ValueError(
                f"keep_checkpoints={self.newest}: must be at least 1, the one being written"
            )

    def stays(self, marker: str, newer: Sequence[str]) -> bool:
        """Tell whether a checkpoint stays, given the newer ones that do."""
        is_milestone = self.milestone_every and _step_of(marker) % self.milestone_every == 0
        return bool(is_milestone) or len(newer) < self.newest


def save_checkpoint(
    folder: str | Path,
    step: int,
    state: Mapping[str, Any],
    settings: Mapping[str, Any],
    retention: Retention,
    claim: Claim | None = None,
) -> str:
    """Write a checkpoint, then drop those that need not stay.

    Those of later steps go too: a resume from an earlier one took them back.

    Args:
        folder: or the URL of a bucket's prefix.
        step: updates made so far.
        state: tensors on the CPU, and plain values.
        settings: of the run, flat.
        retention: which ones stay.
        claim: this process's on the folder; None where nobody else can write there.

    Returns:
        Path or URL of the file of tensors.

    Raises:
        CheckpointError: the disk is full or the store refuses.
        ClaimError: the claim is no longer this process's; nothing was removed.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    name = f"step-{step:08d}-{digest[:8]}"
    commit = {"sha256": digest, "settings": dict(settings)}
    try:
        store = open_store(folder)
        _check(claim)
        _put(store, f"{name}.pt", content)
        _put(store, f"{name}.json", json.dumps(commit, indent=1).encode())
    except StoreError as error:
        raise CheckpointError(f"step {step}: no checkpoint: {error}") from error
    try:
        _check(claim)  # writing may have taken minutes
        _drop_old(store, f"{name}.json", retention)
    except StoreError as error:
        logger.warning("old checkpoints stay: %s", error)
    return f"{store.url}/{name}.pt"


def _check(claim: Claim | None) -> None:
    if claim is not None:
        claim.check()


def _put(store: Store, name: str, content: bytes) -> None:
    """Publish content under a name that only it can have; what else has it is damaged, and goes."""
    try:
        put_once(store, name, content)
    except AlreadyInStoreError:
        store.remove(name)
        put_once(store, name, content)


def _drop_old(store: Store, written: str, retention: Retention) -> None:
    """Remove what need not stay: markers first, so that what is left is never half of a pair."""
    names = store.list_names()
    stays = [written]
    for marker in reversed(_markers(names)):
        if _step_of(marker) < _step_of(written) and retention.stays(marker, stays):
            stays.append(marker)
    kept = {*stays, *(_tensors_of(marker) for marker in stays)}
    ours = [name for name in names if _MARKER.fullmatch(name) or _TENSORS.fullmatch(name)]
    for name in sorted(ours, key=lambda name: name.endswith(".pt")):
        if name not in kept:
            store.remove(name)


def newest_checkpoint(folder: str | Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Load the newest whole checkpoint of a folder or bucket's prefix.

    Returns:
        The checkpoint, or None where there is none, and one line for each damaged one passed over.

    Raises:
        StoreError: the store refuses, or fails in passing; that is no reason to take an older one.
    """
    passed_over: list[str] = []
    try:
        markers = _markers(open_store(folder).list_names())
    except NotFoundInStoreError:
        markers = []
    for marker in reversed(markers):
        try:
            return load_checkpoint(f"{folder}/{_tensors_of(marker)}"), tuple(passed_over)
        except CheckpointError as error:
            passed_over.append(str(error))
    return None, tuple(passed_over)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load one checkpoint, reading tensors only.

    Args:
        path: of its file of tensors, or its URL.

    Raises:
        CheckpointError: the file or its marker is missing or damaged, or holds more than tensors.
        StoreError: the store refuses.
    """
    folder, _, name = str(path).rpartition("/")
    try:
        store = open_store(folder or ".")
        marker = json.loads(store.get(name.removesuffix(".pt") + ".json"))
        sha256, settings = marker["sha256"], marker["settings"]
        content = store.get(name)
    except NotFoundInStoreError as error:
        raise CheckpointError(
            f"{path}: it or its .json marker is not there; a checkpoint is both"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its .json marker is damaged") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path}: content differs from its marker's SHA-256; not used")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values; not used"
        ) from error
    return Checkpoint(path=str(path), state=state, settings=settings)


def _markers(names: Sequence[str]) -> list[str]:
    """Pick the commit markers, oldest step first."""
    return sorted(filter(_MARKER.fullmatch, names), key=lambda name: (_step_of(name), name))


def _step_of(marker: str) -> int:
    return int(marker.split("-")[1])


def _tensors_of(marker: str) -> str:
    return marker.removesuffix(".json") + ".pt"
