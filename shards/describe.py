"""What is in a shard set? Counts over it, and one sample, as text for people."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.cloud_sets import CloudReader
from shards.clouds import CLOUD_ARRAYS
from shards.errors import NotFoundInStoreError
from shards.manifest import Manifest, load_manifest
from shards.reader import Request, ShardReader

MAX_SHEET_SAMPLES = 12


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
    index = _find(manifest, key)
    row = manifest.row(index)
    facts = _read_facts(manifest, index)
    spans = [
        f"  {span.name:<15} {span.length:>9} bytes from {span.offset:>11}  crc32 {span.crc32:08x}"
        for span in row.members
    ]
    return "\n".join(
        [
            f"sample {index}, key {row.key}, in {manifest.shard_of(index).name}",
            *(f"  {name} = {json.dumps(value)}" for name, value in facts.items()),
            f"  {row.num_points} points, {row.num_views} views, all checksums right",
            *spans,
        ]
    )


def _read_facts(manifest: Manifest, index: int) -> dict[str, object]:
    """Read a sample whole, which checks every byte of it, and give what is told besides arrays."""
    row = manifest.row(index)
    if manifest.kind == "clouds":
        arrays = [span.name for span in row.members if span.name in CLOUD_ARRAYS]
        cloud = CloudReader(manifest, members=arrays).read(Request(index))
        assert cloud is not None  # the reader raises on damage
        return {"source_id": cloud.source_id, "label": cloud.label}
    sample = ShardReader(manifest).read(Request(index, tuple(range(row.num_views))))
    assert sample is not None
    return asdict(sample.meta)


def chosen_samples(reader: ShardReader, key: str | None) -> list[int]:
    """Choose the samples of a contact sheet: one by its key, or up to 12 spread over the set."""
    if key is not None:
        return [_find(reader.manifest, key)]
    num_samples = reader.manifest.num_samples
    count = min(num_samples, MAX_SHEET_SAMPLES)
    return [place * num_samples // count for place in range(count)]


def _find(manifest: Manifest, key: str) -> int:
    """Tell the index of a sample by its key or source id."""
    keys, source_ids = manifest.read_texts("key", "source_id")
    names = keys if key in keys else source_ids
    if key not in names:
        raise NotFoundInStoreError(
            f"{key}: {manifest.url} has no sample of this key or source id; "
            "`python -m shards stats` tells what it has"
        )
    return names.index(key)
