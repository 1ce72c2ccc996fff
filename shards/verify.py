"""Is a shard set, or a column set, what was written? Every byte is read.

manifest.json against its own content, the tables against manifest.json, every shard against its
SHA-256, the members of every tar against the table of members, and the records beside the manifest
(shards/sealed.py) against themselves.
"""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zlib_ng.zlib_ng import crc32

from shards.cloud_sets import index_clouds
from shards.column_manifest import COLUMNS_MANIFEST, ColumnSet, load_columns
from shards.column_sets import index_columns
from shards.columns import SampleRow, ShardEntry, ShardInfo
from shards.errors import (
    MEND_MANIFEST,
    MEND_SHARD,
    CorruptSampleError,
    ManifestError,
    NotFoundInStoreError,
    NotWholeError,
    ShardError,
    StoreError,
    UrlError,
)
from shards.manifest import Manifest, load_manifest, part_name
from shards.sealed import DATASET_FILE, SEALED_FILES, unseal
from shards.store import Store, open_store, sha256
from shards.summary import MANIFEST, REJECTS_TABLE, SHARDS_TABLE
from shards.writer import index_tar

# The same table as the command line's: cluster/app.py.
EXIT_WHOLE = 0
EXIT_USAGE = 2
EXIT_MISSING = 3
EXIT_DAMAGED = 4
EXIT_UNREADABLE = 5


def exit_code(error: ShardError) -> int:
    """Give the exit code of an error that ends a command."""
    match error:
        case UrlError():
            return EXIT_USAGE
        case NotFoundInStoreError() | NotWholeError():
            return EXIT_MISSING
        case StoreError():
            return EXIT_UNREADABLE
        case _:
            return EXIT_DAMAGED


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a set.

    Attributes:
        kind: bytes are not what was written, something is not there, or something is there that
            the manifest does not know.
        name: of the file, within the set.
        detail: what is wrong and what helps.
    """

    kind: Literal["damaged", "missing", "foreign"]
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found; str() gives a line per finding and a verdict."""

    url: str
    findings: tuple[Finding, ...]
    num_shards: int
    num_samples: int
    num_bytes: int

    @property
    def exit_code(self) -> int:
        """0 if the set is whole; another number for what is only missing than for damage."""
        kinds = {finding.kind for finding in self.findings}
        if kinds - {"missing"}:
            return EXIT_DAMAGED
        return EXIT_MISSING if kinds else EXIT_WHOLE

    def __str__(self) -> str:
        lines = [f"{each.kind}: {each.name}: {each.detail}" for each in self.findings]
        verdict = f"{len(self.findings)} findings" if self.findings else "whole"
        checked = f"{self.num_shards} shards, {self.num_samples} samples, {self.num_bytes} bytes"
        return "\n".join([*lines, f"{self.url}: {verdict} ({checked})"])


def verify(url: str | Path) -> VerifyReport:
    """Read a set through and tell everything that is wrong with it.

    Raises:
        StoreError: something cannot be read at all (access denied, no network).
    """
    store = open_store(url)
    name = COLUMNS_MANIFEST if _is_column_set(store) else MANIFEST
    try:
        found = load_columns(store) if name == COLUMNS_MANIFEST else load_manifest(store)
    except (NotFoundInStoreError, NotWholeError) as error:
        return VerifyReport(store.url, (Finding("missing", name, str(error)),), 0, 0, 0)
    except ManifestError as error:
        return VerifyReport(store.url, (Finding("damaged", name, str(error)),), 0, 0, 0)
    findings = [*_foreign_files(store, found.shards), *_verify_records(store, found)]
    source_ids: Counter[str] = Counter()
    for number, entry in enumerate(found.shards):
        try:
            shard = found.parts[number]
        except NotFoundInStoreError as error:
            findings.append(Finding("missing", part_name(entry.name), str(error)))
        except ManifestError as error:
            findings.append(Finding("damaged", part_name(entry.name), str(error)))
        else:
            findings.extend(_verify_shard(store, shard, found))
            source_ids.update(shard.samples.source_ids)
    findings += [
        Finding("damaged", name, f"{count} samples share this source id; {MEND_MANIFEST}")
        for name, count in source_ids.items()
        if count > 1
    ]
    return VerifyReport(
        store.url,
        tuple(findings),
        len(found.shards),
        sum(shard.num_samples for shard in found.shards),
        sum(shard.num_bytes for shard in found.shards),
    )


def _is_column_set(store: Store) -> bool:
    try:
        store.size(COLUMNS_MANIFEST)
    except StoreError:
        return False
    return True


def _foreign_files(store: Store, shards: tuple[ShardEntry, ...]) -> list[Finding]:
    tars = {shard.name for shard in shards if shard.num_samples}
    known = tars | {part_name(shard.name) for shard in shards} | {SHARDS_TABLE, REJECTS_TABLE}
    return [
        Finding("foreign", name, "the manifest does not know it; move it out of the set")
        for name in store.list_names()
        if name not in known and (name.endswith(".tar") or name.startswith("manifest/"))
    ]


def _verify_records(store: Store, of: Manifest | ColumnSet) -> Iterator[Finding]:
    """Look at the records beside the manifest, and at the files that belong to them."""
    are_clouds = isinstance(of, Manifest) and of.kind == "clouds"
    for name in SEALED_FILES:
        try:
            _, files = unseal(store.get(name), name)
        except NotFoundInStoreError:
            if are_clouds and name == DATASET_FILE:
                detail = "nothing else says what the labels of clouds mean; make the set again"
                yield Finding("missing", name, detail)
            continue
        except ManifestError as error:
            yield Finding("damaged", name, str(error))
            continue
        for file, digest in files.items():
            try:
                if store.sha256(file) != digest:
                    yield Finding("damaged", file, f"it is not what {name} says; make it again")
            except NotFoundInStoreError:
                yield Finding("missing", file, f"{name} names it; make it again")


def _verify_shard(store: Store, shard: ShardInfo, of: Manifest | ColumnSet) -> list[Finding]:
    """Compare a shard with its part."""
    if not shard.num_samples:
        return []
    try:
        content = store.get(shard.name)
    except NotFoundInStoreError:
        return [
            Finding("missing", shard.name, "the manifest names it; run the same rendering again")
        ]
    if len(content) != shard.num_bytes or sha256(content) != shard.sha256:
        return [Finding("damaged", shard.name, _locate_damage(content, shard))]
    told = shard.samples.rows()
    try:
        found = _index(io.BytesIO(content), shard.name, told, of)
    except CorruptSampleError as error:
        return [Finding("damaged", shard.name, f"it was written wrongly: {error}")]
    if found != told:
        return [
            Finding(
                "damaged",
                part_name(shard.name),
                f"what it says of {shard.name} is not what the tar holds: "
                f"{_first_difference(found, told)}; {MEND_MANIFEST}",
            )
        ]
    return []


def _index(
    file: io.BytesIO, name: str, told: list[SampleRow], of: Manifest | ColumnSet
) -> list[SampleRow]:
    """Read a tar through, as what its set says that it holds."""
    match of:
        case ColumnSet():
            return index_columns(file, name, told, of.columns)
        case Manifest(kind="clouds"):
            return list(index_clouds(file, name))
        case Manifest():
            return list(index_tar(file, name))


def _locate_damage(content: bytes, shard: ShardInfo) -> str:
    """Name the members whose bytes changed."""
    if len(content) != shard.num_bytes:
        return f"{len(content)} bytes, but {shard.num_bytes} were written; {MEND_SHARD}"
    changed = [
        f"{row.key}.{span.name}"
        for row in shard.samples.rows()
        for span in row.members
        if crc32(content[span.offset : span.offset + span.length]) != span.crc32
    ]
    if not changed:
        return f"a byte of the tar's headers or padding has changed; {MEND_SHARD}"
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{', '.join(changed[:3])}{more} changed since they were written; {MEND_SHARD}"


def _first_difference(found: list[SampleRow], told: list[SampleRow]) -> str:
    if len(found) != len(told):
        return f"{len(found)} samples, not {len(told)}"
    row, other = next((a, b) for a, b in zip(found, told, strict=True) if a != b)
    return f"sample {row.key} ({row.source_id!r}), not {other.key} ({other.source_id!r})"
