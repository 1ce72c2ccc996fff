"""Which records may stand beside a manifest? JSON files that tell by themselves if they changed.

    dataset.json     what the labels of clouds mean (picpoint/data/dataset.py)
    features.json    what a column set of image features holds (picpoint/data/image_features.py)

Each holds the hash of what it says, and of the files that belong to it.
"""

import json
from collections.abc import Mapping
from typing import Any

from shards.errors import ManifestError
from shards.store import sha256

DATASET_FILE = "dataset.json"
FEATURES_FILE = "features.json"
SEALED_FILES = (DATASET_FILE, FEATURES_FILE)

_OWN = {"files", "sha256"}


def seal(record: Mapping[str, object], files: Mapping[str, str] | None = None) -> bytes:
    """Write a record; its text is a function of what it says, so any change shows.

    Args:
        record: what JSON can hold; the names "files" and "sha256" are taken.
        files: SHA-256, in hexadecimal, of files that belong to it, by name within the set.
    """
    if taken := _OWN & record.keys():
        raise ValueError(f"a record with {min(taken)!r}: that name says how it is sealed")
    whole = {**record, "files": dict(files or {})}
    return _text({**whole, "sha256": sha256(_text(whole))})


def unseal(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a record.

    Args:
        content: of the file.
        name: of the file, for messages.

    Returns:
        The record, and the hashes of the files that belong to it.

    Raises:
        ManifestError: it is not what `seal` wrote.
    """
    try:
        found = json.loads(content)
        record = {key: value for key, value in found.items() if key not in _OWN}
        files = {str(file): str(digest) for file, digest in found["files"].items()}
        is_whole = seal(record, files) == content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{name}: {content[:60]!r} is no sealed record ({error}); make the set again"
        ) from error
    if not is_whole or any("/" in file for file in files):
        raise ManifestError(f"{name}: not as it was written; make the set again")
    return record, files


def _text(record: Mapping[str, object]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
