"""What is in a shard set, and is it whole? The manifest: written last, checked first.

    DIR/shard-000000.tar ...     DIR/manifest/{shards,samples,rejects}.parquet     DIR/manifest.json

manifest.json is written last and holds the SHA-256 of each Parquet file, which hold the SHA-256 of
each shard and the CRC-32 of each member. Without manifest.json there is no set.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from shards.columns import MemberSpan, Reject, SampleColumns, SampleRow, ShardInfo, shard_name
from shards.errors import MEND_MANIFEST, ManifestError, NotFoundInStoreError, NotWholeError
from shards.schema import READABLE_VERSIONS, SCHEMA_VERSION
from shards.store import Store, open_store, put_once, sha256
from shards.tables import (
    decode_rejects,
    decode_samples,
    decode_shards,
    encode_rejects,
    encode_samples,
    encode_shards,
)
from shards.writer import check_shard_name

__all__ = [
    "MANIFEST",
    "Manifest",
    "MemberSpan",
    "Reject",
    "SampleColumns",
    "SampleRow",
    "ShardInfo",
    "load_manifest",
    "publish_manifest",
    "shard_name",
]

MANIFEST = "manifest.json"
SHARDS_TABLE = "manifest/shards.parquet"
SAMPLES_TABLE = "manifest/samples.parquet"
REJECTS_TABLE = "manifest/rejects.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """A whole shard set, without its pictures and points.

    Attributes:
        url: the set's folder or bucket prefix.
        shards: in order; sample indices count through them.
        samples: all samples, in order of their index.
        rejects: shapes that are not in the set, and why.
        digest: SHA-256 over the content of the shards in their order; the same for the same
            content, whatever the files are called, wherever and whenever they were written.
    """

    url: str
    shards: tuple[ShardInfo, ...]
    samples: SampleColumns
    rejects: tuple[Reject, ...]
    digest: str
    _first_sample: Int64[np.ndarray, " shards"] = field(repr=False)

    @property
    def num_samples(self) -> int:
        """How many samples the set holds."""
        return len(self.samples)

    @property
    def keys(self) -> Sequence[str]:
        """Key of every sample, by sample index."""
        return self.samples.keys

    @property
    def source_ids(self) -> Sequence[str]:
        """Source id of every sample, by sample index."""
        return self.samples.source_ids

    @property
    def labels(self) -> Sequence[str]:
        """Class name of every sample, by sample index; "" where none is known."""
        return self.samples.labels

    @property
    def num_bytes(self) -> int:
        """Length of all shards together."""
        return sum(shard.num_bytes for shard in self.shards)

    def shard_of(self, sample_index: int) -> ShardInfo:
        """Tell which shard holds a sample."""
        return self.shards[int(np.searchsorted(self._first_sample, sample_index, "right")) - 1]

    def row(self, sample_index: int) -> SampleRow:
        """Tell what is known of a sample.

        Raises:
            IndexError: there is no such sample; a negative index is padding of a batch.
        """
        if not 0 <= sample_index < self.num_samples:
            raise IndexError(
                f"sample {sample_index}: {self.url} has the samples 0 to {self.num_samples - 1}; "
                "slots of a plan that are not valid hold no sample"
            )
        return self.samples.row(sample_index)


def publish_manifest(
    url: str | Path | Store, shards: Sequence[ShardInfo], rejects: Sequence[Reject] = ()
) -> Manifest:
    """Make published shards a whole set; the last step of rendering.

    Publishing the same again succeeds; publishing something else into the same folder does not.

    Args:
        url: the set's folder or bucket prefix, or its store.
        shards: as `write_shard` told of them; their order is the order of the samples.
        rejects: shapes that were left out.

    Raises:
        ManifestError: no shard, or two samples or shards of the same name.
        StoreError: the store refused, or holds another manifest.
    """
    store = _store(url)
    _refuse_repeats("shard", [shard.name for shard in shards])
    _refuse_repeats("source id", [name for shard in shards for name in shard.samples.source_ids])
    if not shards:
        raise ManifestError(
            f"{store.url}: a set of no shards; every shape was rejected or none was found: see the "
            "rejects and check the source"
        )
    files = {
        SHARDS_TABLE: put_once(store, SHARDS_TABLE, encode_shards(shards)),
        SAMPLES_TABLE: put_once(store, SAMPLES_TABLE, encode_samples(shards)),
        REJECTS_TABLE: put_once(store, REJECTS_TABLE, encode_rejects(rejects)),
    }
    put_once(store, MANIFEST, _summary(SCHEMA_VERSION, files, shards, len(rejects)))
    return load_manifest(store)


def load_manifest(url: str | Path | Store) -> Manifest:
    """Read what a set holds; the shards themselves are not opened.

    Args:
        url: the set's folder or bucket prefix, or its store.

    Raises:
        NotWholeError: there is no manifest.
        ManifestError: the manifest is damaged or of another version.
        StoreError: the folder is missing or cannot be read.
    """
    store = _store(url)
    try:
        content = store.get(MANIFEST)
    except NotFoundInStoreError as error:
        store.list_names()  # a folder that is missing altogether has a clearer error
        raise NotWholeError(
            f"{store.url}: no {MANIFEST}, so the shard set is not whole; it is written last: let "
            "the rendering run to its end, or run the same rendering again; shards that are there "
            "stay as they are"
        ) from error
    version, files = _read_summary(content, store.url)
    samples, starts = decode_samples(_checked(store, SAMPLES_TABLE, files))
    parts = [samples.between(*edges) for edges in pairwise(starts)]
    shards = decode_shards(_checked(store, SHARDS_TABLE, files), parts)
    rejects = decode_rejects(_checked(store, REJECTS_TABLE, files))
    _check_places(shards, store.url)
    if content != _summary(version, files, shards, len(rejects)):
        raise ManifestError(
            f"{store.url}/{MANIFEST}: says other things than the tables it names; it is damaged or "
            f"was edited: {MEND_MANIFEST}"
        )
    first_sample = np.array(starts[:-1], np.int64)
    return Manifest(store.url, shards, samples, rejects, _digest(version, shards), first_sample)


def _store(url: str | Path | Store) -> Store:
    return open_store(url) if isinstance(url, str | Path) else url


def _refuse_repeats(kind: str, names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ManifestError(
            f"{kind} {repeated[0]!r} comes more than once: it must be unique in a set "
            f"({len(repeated)} such); leave the others out"
        )


def _summary(
    version: int, files: dict[str, str], shards: Sequence[ShardInfo], num_rejects: int
) -> bytes:
    """Write manifest.json; its text is a function of what it says, so any change shows."""
    record = {
        "schema_version": version,
        "digest": _digest(version, shards),
        "num_shards": len(shards),
        "num_samples": sum(shard.num_samples for shard in shards),
        "num_bytes": sum(shard.num_bytes for shard in shards),
        "num_rejects": num_rejects,
        "sha256": files,
    }
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def _digest(version: int, shards: Sequence[ShardInfo]) -> str:
    content = "\n".join([f"schema {version}", *(shard.sha256 for shard in shards)])
    return hashlib.sha256(content.encode()).hexdigest()


def _read_summary(content: bytes, url: str) -> tuple[int, dict[str, str]]:
    """Read the version, and which tables belong to the set; the rest is compared as a whole."""
    try:
        found = json.loads(content)
        version = found["schema_version"]
        files = {name: str(digest) for name, digest in found["sha256"].items()}
        whole = set(files) == {SHARDS_TABLE, SAMPLES_TABLE, REJECTS_TABLE}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{url}/{MANIFEST}: {content[:60]!r} is no manifest ({error}); {MEND_MANIFEST}"
        ) from error
    if version not in READABLE_VERSIONS or not whole:
        raise ManifestError(
            f"{url}/{MANIFEST}: schema version {version}; this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}: read it with the version that wrote it, "
            "or render into another folder"
        )
    return version, files


def _checked(store: Store, name: str, files: dict[str, str]) -> bytes:
    content = store.get(name)
    if (found := sha256(content)) != files[name]:
        raise ManifestError(
            f"{store.url}/{name}: SHA-256 {found[:12]}..., but {MANIFEST} says "
            f"{files[name][:12]}...; the file is damaged: {MEND_MANIFEST}"
        )
    return content


def _check_places(shards: Sequence[ShardInfo], url: str) -> None:
    """Names stay inside the folder, and members inside their shard."""
    for shard in shards:
        check_shard_name(shard.name)
        samples = shard.samples
        ends: Any = samples.offset + samples.length
        if (
            (samples.offset < 0).any()
            or (samples.length < 0).any()
            or (ends > shard.num_bytes).any()
        ):
            raise ManifestError(
                f"{url}: a member lies outside its shard {shard.name} of {shard.num_bytes} bytes; "
                f"{MEND_MANIFEST}"
            )
