"""In what do the settings of two runs differ? In words, for the messages that refuse the one."""

from collections.abc import Collection, Mapping
from typing import Any

# Settings that are hashes: what has changed where they differ.
_HASHED = {
    "data.digest": "the shapes to train on are others (data.shards, data.holdout)",
    "image_encoder.weights_sha256": "the image encoder's weights are others",
}
# Who would read more of them has taken another run altogether.
_MOST = 12


def name_differences(
    was: Mapping[str, Any], now: Mapping[str, Any], may_differ: Collection[str] = ()
) -> str:
    """Name the settings that differ, with both values, a dozen at most; nothing where none does.

    Args:
        was: settings of a run, flat.
        now: those that it is to be gone on with, flat.
        may_differ: names of those that do not matter here.
    """
    changed = [
        _HASHED.get(key) or f"{key} was {_told(was, key)}, is {_told(now, key)}"
        for key in sorted(was.keys() | now.keys())
        if key not in may_differ and was.get(key) != now.get(key)
    ]
    more = [f"and {len(changed) - _MOST} more"] if len(changed) > _MOST else []
    return "; ".join([*changed[:_MOST], *more])


def _told(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"
