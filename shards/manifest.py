"""What is in a shard set, and is it whole? The manifest: written last, checked first.

    DIR/shard-000000.tar ...                        the shards
    DIR/manifest/samples/shard-000000.parquet ...   the part of each: its samples and their members
    DIR/manifest/{shards,rejects}.parquet           a row per shard, a row per shape left out
    DIR/manifest.json                               written last; without it there is no set

Whoever writes a shard writes its part right after it: a shard with a part is finished, whatever
becomes of its writer. Opening a set reads the tables; a part is read when a sample of its shard is
asked for (shards/parts.py). manifest.json holds the SHA-256 of the two tables, shards.parquet that
of each shard and of each part, and the parts the CRC-32 of each member.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from shards.cache import DiskCache
from shards.columns import (
    MemberSpan,
    Reject,
    SampleColumns,
    SampleRow,
    ShardEntry,
    ShardInfo,
    shard_name,
)
from shards.errors import MEND_MANIFEST, ManifestError, NotFoundInStoreError, NotWholeError
from shards.parts import PARTS, Parts, checked_file, part_name
from shards.store import Store, as_store, put_once, sha256
from shards.summary import (
    MANIFEST,
    REJECTS_TABLE,
    SHARDS_TABLE,
    SetKind,
    content_digest,
    decode_summary,
    encode_summary,
)
from shards.tables import (
    TextColumn,
    decode_part,
    decode_rejects,
    decode_shards,
    encode_part,
    encode_rejects,
    encode_shards,
)
from shards.writer import check_shard_name

__all__ = [
    "MANIFEST",
    "PARTS",
    "Manifest",
    "MemberSpan",
    "Reject",
    "SampleColumns",
    "SampleRow",
    "ShardEntry",
    "ShardInfo",
    "load_manifest",
    "load_part",
    "part_name",
    "publish_manifest",
    "publish_part",
    "shard_name",
]


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """A whole shard set, without its pictures and points.

    What is in memory is a line per shard, and the rows of the shards used last.

    Attributes:
        url: the set's folder or bucket prefix.
        shards: in order; sample indices count through them. One of no samples has no tar.
        kind: what its samples are.
        digest: SHA-256 over the content of the shards in their order; the same for the same
            content, whatever the files are called, wherever and whenever they were written.
        parts: the samples of each shard, by its number.
    """

    url: str
    shards: tuple[ShardEntry, ...]
    kind: SetKind
    digest: str
    parts: Parts = field(repr=False)
    _first_sample: tuple[int, ...] = field(repr=False)

    @property
    def num_samples(self) -> int:
        """How many samples the set holds."""
        return self._first_sample[-1]

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """Shapes that are not in the set, and why."""
        return tuple(reject for shard in self.shards for reject in shard.rejects)

    @property
    def num_bytes(self) -> int:
        """Length of all shards together."""
        return sum(shard.num_bytes for shard in self.shards)

    def read_texts(self, *names: TextColumn) -> tuple[tuple[str, ...], ...]:
        """Read columns of the whole set, in one pass over all parts; none of it is kept.

        Args:
            names: `key`, `source_id` or `label` ("" where none is known).

        Returns:
            For each name, the texts by sample index.

        Raises:
            ManifestError: a part is damaged.
            StoreError: a part cannot be read.
        """
        return self.parts.read_texts(names)

    def locate(self, sample_index: int) -> tuple[int, int]:
        """Tell a sample's shard, by its number, and the sample's place in it.

        Raises:
            IndexError: there is no such sample; a negative index is padding of a batch.
        """
        first_sample = self._first_sample
        if not 0 <= sample_index < first_sample[-1]:
            raise IndexError(
                f"sample {sample_index}: {self.url} has the samples 0 to {self.num_samples - 1}; "
                "slots of a plan that are not valid hold no sample"
            )
        number = bisect_right(first_sample, sample_index) - 1
        return number, sample_index - first_sample[number]

    def shard_of(self, sample_index: int) -> ShardEntry:
        """Tell which shard holds a sample."""
        return self.shards[self.locate(sample_index)[0]]

    def row(self, sample_index: int) -> SampleRow:
        """Tell what is known of a sample.

        Raises:
            IndexError: there is no such sample; a negative index is padding of a batch.
            ManifestError: the part of its shard is damaged.
            StoreError: the part cannot be read.
        """
        number, place = self.locate(sample_index)
        return self.parts[number].samples.row(place)


def publish_part(store: Store, shard: ShardInfo) -> ShardEntry:
    """Tell of a shard that was published; with this it is finished.

    Telling the same again succeeds.

    Args:
        store: of the set.
        shard: as `write_shard` told of it, with what was rejected; or an `empty_shard`.

    Raises:
        SchemaError: the shard's name is no shard name.
        StoreError: the store refused, or something else is told of this shard.
    """
    check_shard_name(shard.name)
    return _entry(shard, put_once(store, part_name(shard.name), encode_part(shard)))


def load_part(store: Store, name: str) -> ShardEntry | None:
    """Read what was told of a shard; None where it is not finished.

    Raises:
        ManifestError: the part is damaged or of another shard.
        StoreError: the store refused.
    """
    try:
        content = store.get(part_name(name))
    except NotFoundInStoreError:
        return None
    shard = decode_part(content)
    if shard.name != name:
        raise ManifestError(
            f"{store.url}/{part_name(name)}: tells of {shard.name!r}; {MEND_MANIFEST}"
        )
    return _entry(shard, sha256(content))


def publish_manifest(
    url: str | Path | Store, entries: Sequence[ShardEntry], kind: SetKind = "shapes"
) -> None:
    """Make finished shards a whole set; the last step of rendering.

    Publishing the same again succeeds; publishing something else into the same folder does not.

    Args:
        url: the set's folder or bucket prefix, or its store.
        entries: as `publish_part` or `load_part` gave them; their order is that of the samples.
        kind: what the samples are.

    Raises:
        ManifestError: no sample at all, or two shards of the same name.
        StoreError: the store refused, or holds another manifest.
    """
    store = as_store(url)
    _refuse_repeats([entry.name for entry in entries])
    if not any(entry.num_samples for entry in entries):
        raise ManifestError(
            f"{store.url}: a set of no samples; every shape was rejected or none was found: see "
            "the rejects and check the source"
        )
    files = {
        SHARDS_TABLE: put_once(store, SHARDS_TABLE, encode_shards(entries)),
        REJECTS_TABLE: put_once(store, REJECTS_TABLE, encode_rejects(entries)),
    }
    put_once(store, MANIFEST, encode_summary(files, entries, kind))


def load_manifest(url: str | Path | Store, cache: DiskCache | None = None) -> Manifest:
    """Read what a set holds; the shards themselves are not opened.

    Args:
        url: the set's folder or bucket prefix, or its store.
        cache: where parts are kept that come from a bucket.

    Raises:
        NotWholeError: there is no manifest.
        ManifestError: the manifest is damaged or of another version.
        StoreError: the folder is missing or cannot be read.
    """
    store = as_store(url)
    try:
        content = store.get(MANIFEST)
    except NotFoundInStoreError as error:
        store.list_names()  # a folder that is missing altogether has a clearer error
        raise NotWholeError(
            f"{store.url}: no {MANIFEST}, so the shard set is not whole; it is written last: let "
            "the rendering run to its end, or run the same rendering again; shards that are there "
            "stay as they are"
        ) from error
    files, kind = decode_summary(content, store.url)
    entries = decode_shards(checked_file(store, SHARDS_TABLE, files[SHARDS_TABLE]))
    for entry in entries:
        check_shard_name(entry.name)
    told = decode_rejects(checked_file(store, REJECTS_TABLE, files[REJECTS_TABLE]))
    entries = _with_rejects(entries, told)
    rejects = [(entry.name, reject) for entry in entries for reject in entry.rejects]
    if content != encode_summary(files, entries, kind) or rejects != told:
        raise ManifestError(
            f"{store.url}/{MANIFEST}: says other things than the tables it names; it is damaged or "
            f"was edited: {MEND_MANIFEST}"
        )
    return Manifest(
        url=store.url,
        shards=entries,
        kind=kind,
        digest=content_digest(entries),
        parts=Parts(store, entries, cache),
        _first_sample=tuple(accumulate((entry.num_samples for entry in entries), initial=0)),
    )


def _with_rejects(
    entries: Sequence[ShardEntry], told: Sequence[tuple[str, Reject]]
) -> tuple[ShardEntry, ...]:
    """Give every shard its rejects."""
    rejects: dict[str, list[Reject]] = {}
    for shard, reject in told:
        rejects.setdefault(shard, []).append(reject)
    return tuple(
        replace(entry, rejects=tuple(rejects[entry.name])) if entry.name in rejects else entry
        for entry in entries
    )


def _entry(shard: ShardInfo, part_sha256: str) -> ShardEntry:
    return ShardEntry(
        name=shard.name,
        num_bytes=shard.num_bytes,
        num_samples=shard.num_samples,
        sha256=shard.sha256,
        part_sha256=part_sha256,
        rejects=shard.rejects,
    )


def _refuse_repeats(names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ManifestError(
            f"shard {repeated[0]!r} comes more than once: it must be unique in a set "
            f"({len(repeated)} such); leave the others out"
        )
