"""What does manifest.json say? Digests of the tables beside it, counts, what the samples are."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, get_args

from shards.columns import ShardEntry
from shards.errors import MEND_MANIFEST, ManifestError
from shards.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
SHARDS_TABLE = "manifest/shards.parquet"
REJECTS_TABLE = "manifest/rejects.parquet"

# Shapes with pictures (shards/schema.py), or labelled clouds (shards/clouds.py). A set of shapes
# does not say so.
SetKind = Literal["shapes", "clouds"]


def encode_summary(files: dict[str, str], entries: Sequence[ShardEntry], kind: SetKind) -> bytes:
    """Write manifest.json; its text is a function of what it says, so any change shows."""
    record: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "digest": content_digest(entries),
        "num_shards": len(entries),
        "num_samples": sum(entry.num_samples for entry in entries),
        "num_bytes": sum(entry.num_bytes for entry in entries),
        "num_rejects": sum(len(entry.rejects) for entry in entries),
        "sha256": files,
    }
    if kind != "shapes":
        record["kind"] = kind
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def content_digest(entries: Sequence[ShardEntry]) -> str:
    """Hash what a set holds: its tars, in their order."""
    tars = [entry.sha256 for entry in entries if entry.num_samples]
    return hashlib.sha256("\n".join([f"schema {SCHEMA_VERSION}", *tars]).encode()).hexdigest()


def decode_summary(content: bytes, url: str) -> tuple[dict[str, str], SetKind]:
    """Read which tables belong to the set, and its kind; the rest is compared as a whole.

    Raises:
        ManifestError: it is no manifest, or one of another version.
    """
    try:
        found = json.loads(content)
        version = found["schema_version"]
        files = {name: str(digest) for name, digest in found["sha256"].items()}
        kind = found.get("kind", "shapes")
        whole = set(files) == {SHARDS_TABLE, REJECTS_TABLE} and kind in get_args(SetKind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{url}/{MANIFEST}: {content[:60]!r} is no manifest ({error}); {MEND_MANIFEST}"
        ) from error
    if version != SCHEMA_VERSION or not whole:
        raise ManifestError(
            f"{url}/{MANIFEST}: schema version {version}; this program reads {SCHEMA_VERSION}: "
            "read it with the version that wrote it, or render into another folder"
        )
    return files, kind
