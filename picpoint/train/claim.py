"""Whose are the checkpoints of a folder? Of one run at a time, of whom one process writes them.

Retention removes checkpoints, so two runs in one folder would remove each other's. Whoever begins
to write takes a claim there, `run-00000003.json`: a number above the last one, taken by a
conditional put, so that of two at once one has it. It names the run. Another run is refused; the
same run, begun again, takes the next number, and whoever held the last one can save no more: a
process that was believed lost, or the same command started twice.
"""

import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picpoint.train.differences import name_differences
from shards.errors import AlreadyInStoreError, NotFoundInStoreError
from shards.store import Store, open_store, put_once

_CLAIM = re.compile(r"run-(\d{8,})\.json")


class ClaimError(RuntimeError):
    """The checkpoints of a folder belong to another run, or to a later start of this one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A process's right to write and remove checkpoints.

    Attributes:
        folder: of the checkpoints, or its URL.
        name: of the object that says so.
        token: tells it from any other of that name.
    """

    folder: str
    name: str
    token: str

    def check(self) -> None:
        """Make sure that nobody has taken the folder over.

        Raises:
            ClaimError: somebody has.
            StoreError: the store refuses.
        """
        newest = _newest_claim(open_store(self.folder))
        if newest is None:
            raise ClaimError(
                f"{self.folder}/{self.name} was removed while its run went on; it saves no more: "
                "start it again if it is to go on"
            )
        if newest.token != self.token:
            raise ClaimError(
                f"{self.folder}: {newest.holder} has begun this run again since (it says "
                f"{newest.name}); this process saves no more: leave only one of the two running"
            )


@dataclass(frozen=True, slots=True)
class _Found:
    """A claim as it stands in a store."""

    name: str
    out: str
    host: str
    process: int
    token: str
    settings: dict[str, Any]

    @property
    def holder(self) -> str:
        return f"process {self.process} on {self.host}"


def owner_of(run_dir: Path, checkpoints: str) -> str:
    """Name a run, so that no two share a folder of checkpoints under one name.

    Args:
        run_dir: the run's folder.
        checkpoints: where its checkpoints go; "" for a folder of its own, in which the run may be
            moved.
    """
    return str(run_dir.resolve()) if checkpoints else "."


def claim_checkpoints(folder: str, owner: str, settings: Mapping[str, Any]) -> Claim:
    """Take a folder of checkpoints for a run, from whichever process of that run had it.

    Args:
        folder: or the URL of a bucket's prefix.
        owner: the run, as `owner_of` names it.
        settings: of the run, flat.

    Raises:
        ClaimError: it is another run's, or another process took it at the same moment.
        StoreError: the store refuses.
    """
    store = open_store(folder)
    newest = _checked_claim(store, owner, settings)
    number = 1 if newest is None else _number_of(newest.name) + 1
    claim = Claim(folder, f"run-{number:08d}.json", uuid.uuid4().hex)
    content = {
        "out": owner,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "token": claim.token,
        "settings": dict(settings),
    }
    try:
        put_once(store, claim.name, json.dumps(content, indent=1).encode())
    except AlreadyInStoreError as error:
        _checked_claim(store, owner, settings)
        raise ClaimError(
            f"{folder}: another process began this run at the same moment; leave it to that one"
        ) from error
    if newest is not None:
        store.remove(newest.name)
    return claim


def check_owner(folder: str, owner: str) -> None:
    """Make sure that a folder of checkpoints is of nobody else; nothing is written.

    Raises:
        ClaimError: it is another run's.
        StoreError: the store refuses.
    """
    _checked_claim(open_store(folder), owner, None)


def _checked_claim(store: Store, owner: str, settings: Mapping[str, Any] | None) -> _Found | None:
    """Find the newest claim, and refuse that of another run."""
    newest = _newest_claim(store)
    if newest is None:
        return None
    if newest.out != owner:
        raise ClaimError(
            f"checkpoints={store.url}: holds those of another run, {_run_of(newest)}, which would "
            "lose them; choose another place for this run's, or, if it is that run and only `out` "
            f"has moved, remove {store.url}/{newest.name}"
        )
    changed = "" if settings is None else name_differences(newest.settings, settings)
    if changed:
        raise ClaimError(
            f"{store.url}: this run was begun with other settings ({changed}; by {newest.holder}); "
            "set them back to go on with it, or choose another `out`, and another `checkpoints` if "
            "you have set one, for a new run"
        )
    return newest


def _run_of(claim: _Found) -> str:
    own = claim.out == "."
    return f"in whose own folder this is ({claim.holder})" if own else f"out={claim.out}"


def _newest_claim(store: Store) -> _Found | None:
    """Read the claim of the highest number; older ones may stand beside it for a moment."""
    try:
        names = [name for name in store.list_names() if _CLAIM.fullmatch(name)]
    except NotFoundInStoreError:
        return None
    if not names:
        return None
    name = max(names, key=_number_of)
    try:
        return _Found(name, **json.loads(store.get(name)))
    except NotFoundInStoreError:  # somebody took over between the two requests
        return _newest_claim(store)
    except (TypeError, ValueError) as error:
        raise ClaimError(
            f"{store.url}/{name}: damaged, so whose checkpoints these are is not known; remove it "
            "if they are this run's"
        ) from error


def _number_of(name: str) -> int:
    return int(name.removeprefix("run-").removesuffix(".json"))
