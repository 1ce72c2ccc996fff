"""What does a column set say of itself? Its columns, its base, its shards; see column_sets.py."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shards.cache import DiskCache
from shards.columns import ShardEntry
from shards.errors import (
    ManifestError,
    NotFoundInStoreError,
    NotWholeError,
)
from shards.manifest import Manifest
from shards.parts import Parts, checked_file
from shards.schema import SCHEMA_VERSION, SchemaError, view_prefix
from shards.store import Store, as_store
from shards.summary import SHARDS_TABLE, content_digest
from shards.tables import decode_shards
from shards.writer import check_shard_name

COLUMNS_MANIFEST = "columns.json"

_NAME = re.compile(r"(?!view)[a-z][a-z0-9_]{0,30}\.npy")
_RESERVED = ("points.npy", "normals.npy", "colors.npy", "cameras.npy")
_DTYPE = re.compile(r"[<|][biuf]\d{1,2}")
MEND_COLUMNS = "remove the column set and write it again"


@dataclass(frozen=True, slots=True)
class Column:
    """One array that every sample of a column set has.

    Attributes:
        name: of the member, such as `features.npy`: small letters, digits and _.
        dtype: as numpy.dtype.str says it, such as `<f2`, `|i1`.
        shape: 0 stands for any length, another one in each sample.
        per_view: one array for each view of the sample; a reader gets those of the views that it
            asks for, named by `member_of`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    per_view: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise SchemaError(
                f"column {self.name!r}: a name is small letters, digits and _, ends in .npy, does "
                "not begin with view and is no member of a sample; choose another"
            )
        if not _DTYPE.fullmatch(self.dtype) or not _is_dtype(self.dtype):
            raise SchemaError(
                f"column {self.name}: dtype {self.dtype!r} is none of plain numbers as "
                "numpy.dtype.str says it, such as '<f2' or '|i1'"
            )

    def member_of(self, view: int) -> str:
        """Name the member that holds this column of a view, or of the sample."""
        return f"{view_prefix(view)}.{self.name}" if self.per_view else self.name


def _is_dtype(text: str) -> bool:
    try:
        return np.dtype(text).str == text
    except TypeError:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSet:
    """A whole column set.

    Attributes:
        url: its folder or bucket prefix.
        base_digest: of the shard set that it belongs to.
        columns: what every sample has.
        shards: in the order of the base's.
        parts: where the members of each shard's samples lie.
    """

    url: str
    base_digest: str
    columns: tuple[Column, ...]
    shards: tuple[ShardEntry, ...]
    parts: Parts

    def check_base(self, base: Manifest) -> None:
        """Refuse a set that was made of other samples.

        Raises:
            ManifestError: it belongs to another shard set.
        """
        counts = [[shard.num_samples for shard in of.shards] for of in (self, base)]
        if self.base_digest != base.digest or counts[0] != counts[1]:
            raise ManifestError(
                f"{self.url}: its columns are of the shard set {self.base_digest[:12]}..., and "
                f"{base.url} is {base.digest[:12]}...; make them again of that one"
            )


def columns_summary(
    base_digest: str, columns: Sequence[Column], entries: Sequence[ShardEntry], table_sha256: str
) -> bytes:
    """Write columns.json; its text is a function of what it says, so any change shows."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "base_digest": base_digest,
        "columns": [asdict(column) for column in columns],
        "digest": content_digest(entries),
        "num_shards": len(entries),
        "num_samples": sum(entry.num_samples for entry in entries),
        "num_bytes": sum(entry.num_bytes for entry in entries),
        "sha256": {SHARDS_TABLE: table_sha256},
    }
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def load_columns(url: str | Path | Store, cache: DiskCache | None = None) -> ColumnSet:
    """Open a column set; the shards and their parts are not read yet.

    Raises:
        NotWholeError: there is no columns.json.
        ManifestError: it is damaged or of another version.
        StoreError: the folder is missing or cannot be read.
    """
    store = as_store(url)
    try:
        content = store.get(COLUMNS_MANIFEST)
    except NotFoundInStoreError as error:
        store.list_names()  # a folder that is missing altogether has a clearer error
        raise NotWholeError(
            f"{store.url}: no {COLUMNS_MANIFEST}, so this is no whole column set; it is written "
            "last: let the writer run to its end, or run it again"
        ) from error
    base_digest, columns, table_sha256 = _read_summary(content, store.url)
    entries = decode_shards(checked_file(store, SHARDS_TABLE, table_sha256))
    for entry in entries:
        check_shard_name(entry.name)
    if content != columns_summary(base_digest, columns, entries, table_sha256):
        raise ManifestError(
            f"{store.url}/{COLUMNS_MANIFEST}: says other things than its table; it is damaged or "
            f"was edited: {MEND_COLUMNS}"
        )
    return ColumnSet(store.url, base_digest, columns, entries, Parts(store, entries, cache))


def _read_summary(content: bytes, url: str) -> tuple[str, tuple[Column, ...], str]:
    try:
        found = json.loads(content)
        version = found["schema_version"]
        columns = tuple(
            Column(
                str(each["name"]),
                str(each["dtype"]),
                tuple(map(int, each["shape"])),
                bool(each["per_view"]),
            )
            for each in found["columns"]
        )
        summary = str(found["base_digest"]), columns, str(found["sha256"][SHARDS_TABLE])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{url}/{COLUMNS_MANIFEST}: {content[:60]!r} is no column set ({error}); {MEND_COLUMNS}"
        ) from error
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{url}/{COLUMNS_MANIFEST}: schema version {version}; this program reads "
            f"{SCHEMA_VERSION}: read it with the version that wrote it, or write it again"
        )
    return summary
