"""How do labelled clouds become a set, and how are they read? As shapes do and are.

store = open_store("modelnet40/train")
shard = write_clouds(store, shard_name(0), clouds)
put_once(store, DATASET_FILE, seal({"classes": names}))  # what the labels mean; verify asks for it
publish_manifest(store, [publish_part(store, shard)], kind="clouds")
cloud = CloudReader("modelnet40/train", members=(NORMALS,)).read(Request(0))
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from shards.cache import CacheConfig
from shards.clouds import CLOUD_ARRAYS, CLOUD_META, Cloud, decode_cloud, encode_cloud
from shards.columns import SampleRow, ShardInfo
from shards.manifest import Manifest
from shards.member_reader import MemberReader, OnCorrupt, SampleKind
from shards.schema import POINTS
from shards.store import Store
from shards.writer import encode_each, index_samples, write_tar


def write_clouds(store: Store, name: str, clouds: Iterable[Cloud]) -> ShardInfo:
    """Write clouds to a new shard, read it back, and publish it; see `write_shard`.

    Raises:
        SchemaError: a cloud breaks the schema, two have the same key, or there is none.
        StoreError: the store refused, or holds other content under this name.
    """
    return write_tar(
        store,
        name,
        encode_each(clouds, encode_cloud),
        lambda file: list(index_clouds(file, name)),
    )


def index_clouds(file: io.BufferedIOBase, name: str) -> Iterator[SampleRow]:
    """Read a tar through and tell where every member lies; every cloud is decoded and checked.

    Raises:
        CorruptSampleError: a broken tar, or a member that is not what its name says.
    """
    return index_samples(file, name, _row)


def _row(members: Mapping[str, bytes]) -> SampleRow:
    cloud = decode_cloud(members)
    return SampleRow(cloud.key, cloud.source_id, cloud.label, cloud.num_points, 0, ())


def _decode_checked(members: Mapping[str, bytes]) -> Cloud:
    return decode_cloud(members, check_values=False)


CLOUDS = SampleKind("clouds", tuple(CLOUD_ARRAYS), (POINTS, CLOUD_META), _decode_checked)


class CloudReader(MemberReader[Cloud]):
    """Reads labelled clouds."""

    def __init__(
        self,
        url_or_manifest: str | Path | Manifest,
        on_corrupt: OnCorrupt = "fail",
        members: Sequence[str] = (),
        columns: Sequence[str | Path] = (),
        cache: CacheConfig | None = None,
    ) -> None:
        """Open a set of clouds.

        Args:
            url_or_manifest: a folder, a bucket prefix, or a manifest that was loaded already.
            on_corrupt: whether a damaged cloud raises, or is counted in `corrupt` and read as None.
            members: arrays to read besides the points; every cloud that is read must have them.
            columns: column sets to read along, all of their columns.
            cache: where to keep what is fetched from buckets.

        Raises:
            ManifestError: the set is not whole, or a column set is of other clouds.
            StoreError: there is no such set.
            SchemaError: no such member, the set holds shapes, or two columns of the same name.
        """
        super().__init__(CLOUDS, url_or_manifest, on_corrupt, members, columns, cache)
