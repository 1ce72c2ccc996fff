"""How does a data set of others become a labelled shard set? Read once, checked, and published."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from picpoint.data.dataset import write_info
from picpoint.data.split import HoldoutConfig
from picpoint.datasets import (
    folder,
    meshes,
    modelnet,
    rendered,
    s3dis,
    scanobjectnn,
    shapenetpart,
)
from picpoint.datasets.meshes import MeshConfig, Up
from picpoint.datasets.names import CLOUDS_PER_SHARD, DatasetName
from picpoint.datasets.source import BrokenDataError, CloudSource
from shards.cloud_sets import write_clouds
from shards.clouds import Cloud
from shards.columns import ShardEntry, shard_name
from shards.manifest import Manifest, load_manifest, publish_manifest, publish_part
from shards.schema import SchemaError
from shards.store import open_store

# Those of which nothing is to be chosen.
_OF_A_FOLDER: dict[str, Callable[[Path], CloudSource]] = {
    "modelnet40_h5": modelnet.open_h5,
    "modelnet40_resampled": functools.partial(modelnet.open_resampled, num_classes=40),
    "modelnet10_resampled": functools.partial(modelnet.open_resampled, num_classes=10),
    "shapenetpart_h5": shapenetpart.open_h5,
    "shapenetpart_text": shapenetpart.open_text,
    "s3dis_blocks": s3dis.open_blocks,
    "s3dis_rooms": s3dis.open_rooms,
}


def open_source(
    name: DatasetName,
    place: str,
    num_points: int,
    holdout: HoldoutConfig,
    up: Up = "",
    partial: bool = False,
) -> CloudSource:
    """Find a data set on disk.

    Args:
        name: which, and in which of its layouts and variants.
        place: folder that holds it; for `rendered`, the folder or URL of a shard set.
        num_points: drawn of each mesh.
        holdout: which fold is the test split of what has none: `rendered`, `sweethome3d`, `kicad`.
        up: which axis of meshes is up; "" for what the data set is known by, and y in a `folder`.
        partial: leave out meshes that cannot be read or are not there, and name them.

    Raises:
        MissingDataError: files are not there.
        BrokenDataError: lists or names are not what they should be.
    """
    root = Path(place)
    match name:
        case "modelnet40_off" | "modelnet10_off" | "shapenetcore" | "sweethome3d" | "kicad":
            return meshes.open_set(name, root, holdout, MeshConfig(num_points, up, partial))
        case "scanobjectnn_obj_bg" | "scanobjectnn_obj_only" | "scanobjectnn_pb_t50_rs":
            return scanobjectnn.open_variant(root, name)
        case "folder":
            return folder.open_folder(root, num_points, up)
        case "rendered":
            return rendered.open_rendered(place, holdout)
        case _:
            return _OF_A_FOLDER[name](root)


def prepare(
    source: CloudSource,
    out: str,
    partial: bool,
    clouds_per_shard: int = CLOUDS_PER_SHARD,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Write a data set as a labelled shard set; doing the same again succeeds.

    Args:
        source: what to write.
        out: folder or URL.
        partial: take it also where splits do not have as many clouds as published.
        clouds_per_shard: in each tar.
        progress: is told how many clouds are written.

    Raises:
        BrokenDataError: a cloud is broken, a split has another number of clouds than published, or
            a class is tested and not trained on.
        StoreError: the store refused, or holds something else.
    """
    store = open_store(out)
    counts: Counter[str] = Counter()
    classes: dict[str, set[str]] = {}

    def counted() -> Iterator[Cloud]:
        for cloud in source.read():
            split = cloud.source_id.partition("/")[0]
            counts[split] += 1
            classes.setdefault(split, set()).add(cloud.label)
            yield cloud

    entries: list[ShardEntry] = []
    clouds = counted()
    try:
        while (first := next(clouds, None)) is not None:
            taken = chain([first], islice(clouds, clouds_per_shard - 1))
            shard = write_clouds(store, shard_name(len(entries)), taken)
            entries.append(publish_part(store, shard))
            progress(counts.total())
    except SchemaError as error:
        raise BrokenDataError(f"{source.info.name}: {error}") from error
    _check(source, counts, classes, partial)
    write_info(store, source.info)
    publish_manifest(store, entries, kind="clouds")
    return load_manifest(store)


def _check(
    source: CloudSource, counts: Counter[str], classes: dict[str, set[str]], partial: bool
) -> None:
    """Compare what was read with what was published, and the splits with each other."""
    name = source.info.name
    if not counts:
        raise BrokenDataError(f"{name}: no clouds; is --from the right folder?")
    of_all = source.num_published
    expected = _told(source.published) or (of_all and f"{of_all} of all splits")
    is_whole = dict(counts) == dict(source.published) or counts.total() == of_all
    if expected and not is_whole and not partial:
        raise BrokenDataError(
            f"{name}: {_told(counts)} clouds, published are {expected}; fetch it "
            "again, or take what is there with --partial (results are then not comparable)"
        )
    learnt = classes.get("train", set())
    if learnt and (unseen := classes.get("test", set()) - learnt):
        raise BrokenDataError(
            f"{name}: class {min(unseen)!r} is in split test and not in train; add clouds of it, "
            "or leave it out"
        )


def _told(counts: Mapping[str, int]) -> str:
    return " / ".join(f"{count} {split}" for split, count in counts.items())
