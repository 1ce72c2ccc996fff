"""How is a shape read, with some of its pictures? How reading goes: shards/member_reader.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.cache import CacheConfig
from shards.codec import decode_sample
from shards.manifest import Manifest
from shards.member_reader import CorruptSample, MemberReader, OnCorrupt, Request, SampleKind
from shards.schema import CAMERAS, COLORS, META, NORMALS, POINTS, VISIBILITY, Sample

__all__ = [
    "ALL_ARRAYS",
    "PAIRING",
    "CorruptSample",
    "OnCorrupt",
    "Request",
    "ShardReader",
]

ALL_ARRAYS = (POINTS, NORMALS, COLORS, CAMERAS, VISIBILITY)
# What pairing points with pixels needs.
PAIRING = (POINTS, CAMERAS, VISIBILITY)


def _decode_checked(members: Mapping[str, bytes]) -> Sample:
    return decode_sample(members, check_values=False)


SHAPES = SampleKind("shapes", ALL_ARRAYS, (POINTS, META), _decode_checked)


class ShardReader(MemberReader[Sample]):
    """Reads shapes and their pictures."""

    def __init__(
        self,
        url_or_manifest: str | Path | Manifest,
        on_corrupt: OnCorrupt = "fail",
        members: Sequence[str] = ALL_ARRAYS,
        columns: Sequence[str | Path] = (),
        cache: CacheConfig | None = None,
    ) -> None:
        """Open a shard set.

        Args:
            url_or_manifest: a folder, a bucket prefix, or a manifest that was loaded already.
            on_corrupt: whether a damaged sample raises, or is counted in `corrupt` and read as
                None. Only damage: a missing shard or a refused access always raises.
            members: arrays to read besides POINTS and META, which every sample has; what is left
                out has 0 rows. Pictures are chosen per request.
            columns: column sets to read along, all of their columns; see shards/column_sets.py.
            cache: where to keep what is fetched from buckets; of no use for folders, and not used
                for them.

        Raises:
            ManifestError: the set is not whole, or a column set is of other samples.
            StoreError: there is no such set.
            SchemaError: no such member, or two columns of the same name.
        """
        super().__init__(SHAPES, url_or_manifest, on_corrupt, members, columns, cache)
