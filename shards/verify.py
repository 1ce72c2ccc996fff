"""Is a shard set what was written, and what is in it? For people, through `python -m shards`.

`verify` reads every byte: manifest.json against its own content, the tables against manifest.json,
every shard against its SHA-256, and the members of every tar against the table of members.
"""

import io
import json
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

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
from shards.manifest import MANIFEST, REJECTS_TABLE, SHARDS_TABLE, load_manifest, part_name
from shards.reader import Request, ShardReader
from shards.store import Store, open_store, sha256
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


@dataclass(frozen=True, slots=True)
class SetStats:
    """Counts over a set, from its manifest alone; str() gives a line per count."""

    url: str
    digest: str
    num_shards: int
    num_samples: int
    num_bytes: int
    points: tuple[int, int]
    views: tuple[int, int]
    member_bytes: dict[str, int]
    labels: dict[str, int]
    rejects: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"set      {self.url}",
            f"digest   {self.digest}",
            f"shards   {self.num_shards}, {self.num_bytes} bytes",
            f"samples  {self.num_samples}, {self.points[0]} to {self.points[1]} points, "
            f"{self.views[0]} to {self.views[1]} views",
            *(f"bytes    {count} in {name}" for name, count in self.member_bytes.items()),
            *(f"label    {count} {name or '(none)'}" for name, count in self.labels.items()),
            *(f"reject   {count} {reason}" for reason, count in self.rejects.items()),
        ]
        return "\n".join(lines)


def verify(url: str | Path) -> VerifyReport:
    """Read a set through and tell everything that is wrong with it.

    Raises:
        StoreError: something cannot be read at all (access denied, no network).
    """
    store = open_store(url)
    try:
        manifest = load_manifest(store)
    except (NotFoundInStoreError, NotWholeError) as error:
        return VerifyReport(store.url, (Finding("missing", MANIFEST, str(error)),), 0, 0, 0)
    except ManifestError as error:
        return VerifyReport(store.url, (Finding("damaged", MANIFEST, str(error)),), 0, 0, 0)
    findings = _foreign_files(store, manifest.shards)
    source_ids: Counter[str] = Counter()
    for number, entry in enumerate(manifest.shards):
        try:
            shard = manifest.parts[number]
        except NotFoundInStoreError as error:
            findings.append(Finding("missing", part_name(entry.name), str(error)))
        except ManifestError as error:
            findings.append(Finding("damaged", part_name(entry.name), str(error)))
        else:
            findings.extend(_verify_shard(store, shard))
            source_ids.update(shard.samples.source_ids)
    findings += [
        Finding("damaged", name, f"{count} samples share this source id; {MEND_MANIFEST}")
        for name, count in source_ids.items()
        if count > 1
    ]
    return VerifyReport(
        store.url,
        tuple(findings),
        len(manifest.shards),
        manifest.num_samples,
        manifest.num_bytes,
    )


def _foreign_files(store: Store, shards: tuple[ShardEntry, ...]) -> list[Finding]:
    tars = {shard.name for shard in shards if shard.num_samples}
    known = tars | {part_name(shard.name) for shard in shards} | {SHARDS_TABLE, REJECTS_TABLE}
    return [
        Finding("foreign", name, "the manifest does not know it; move it out of the set")
        for name in store.list_names()
        if name not in known and (name.endswith(".tar") or name.startswith("manifest/"))
    ]


def _verify_shard(store: Store, shard: ShardInfo) -> list[Finding]:
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
    try:
        found = list(index_tar(io.BytesIO(content), shard.name))
    except CorruptSampleError as error:
        return [Finding("damaged", shard.name, f"it was written wrongly: {error}")]
    if found != shard.samples.rows():
        return [
            Finding(
                "damaged",
                part_name(shard.name),
                f"what it says of {shard.name} is not what the tar holds: "
                f"{_first_difference(found, shard.samples.rows())}; {MEND_MANIFEST}",
            )
        ]
    return []


def _locate_damage(content: bytes, shard: ShardInfo) -> str:
    """Name the members whose bytes changed."""
    if len(content) != shard.num_bytes:
        return f"{len(content)} bytes, but {shard.num_bytes} were written; {MEND_SHARD}"
    changed = [
        f"{row.key}.{span.name}"
        for row in shard.samples.rows()
        for span in row.members
        if zlib.crc32(content[span.offset : span.offset + span.length]) != span.crc32
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


def stats(url: str | Path) -> SetStats:
    """Count what a set holds; the shards are not opened.

    Raises:
        ManifestError: the set is not whole.
        StoreError: there is no such set.
    """
    manifest = load_manifest(url)
    member_bytes: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    points: list[int] = []
    views: list[int] = []
    for number, entry in enumerate(manifest.shards):
        if not entry.num_samples:
            continue
        columns = manifest.parts[number].samples
        for code, name in enumerate(columns.member_names):
            kind = "view*.jpg" if name.startswith("view") else name
            member_bytes[kind] += int(columns.length[columns.name_code == code].sum())
        labels.update(columns.labels)
        points += [int(columns.num_points.min()), int(columns.num_points.max())]
        views += [int(columns.num_views.min()), int(columns.num_views.max())]
    return SetStats(
        url=manifest.url,
        digest=manifest.digest,
        num_shards=len(manifest.shards),
        num_samples=manifest.num_samples,
        num_bytes=manifest.num_bytes,
        points=(min(points), max(points)),
        views=(min(views), max(views)),
        member_bytes=dict(sorted(member_bytes.items())),
        labels=dict(sorted(labels.items())),
        rejects=dict(sorted(Counter(reject.reason for reject in manifest.rejects).items())),
    )


def inspect(url: str | Path, key: str | None = None) -> str:
    """Describe a set's shards, or one sample and where it lies, as lines of text.

    Args:
        url: of the set.
        key: key or source id of a sample; None for the set.

    Raises:
        NotFoundInStoreError: the set holds no such sample.
        ShardError: the set is not whole, or the sample is damaged.
    """
    manifest = load_manifest(url)
    if key is None:
        lines = [
            f"{shard.name}  {shard.num_samples} samples  {shard.num_bytes} bytes  {shard.sha256}"
            for shard in manifest.shards
        ]
        return "\n".join([*lines, f"{manifest.num_samples} samples, digest {manifest.digest}"])
    keys, source_ids = manifest.read_texts("key", "source_id")
    names = keys if key in keys else source_ids
    if key not in names:
        raise NotFoundInStoreError(
            f"{key}: {manifest.url} has no sample of this key or source id; "
            "`python -m shards stats` tells what it has"
        )
    index = names.index(key)
    row = manifest.row(index)
    sample = ShardReader(manifest).read(Request(index, tuple(range(row.num_views))))
    assert sample is not None  # the reader raises on damage
    spans = [
        f"  {span.name:<15} {span.length:>9} bytes from {span.offset:>11}  crc32 {span.crc32:08x}"
        for span in row.members
    ]
    return "\n".join(
        [
            f"sample {index}, key {row.key}, in {manifest.shard_of(index).name}",
            *(f"  {name} = {json.dumps(value)}" for name, value in asdict(sample.meta).items()),
            f"  {row.num_points} points, {row.num_views} views, all checksums right",
            *spans,
        ]
    )
