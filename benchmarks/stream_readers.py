"""Who reads the same samples, and how? Ours, the floor, and the peers; each reads one epoch.

Every contestant ends with the same work on the same samples, by the same decoders: the cloud, the
meta record (which names the shape and its label), and the pictures of the views that are wanted.
A peer that is not installed is left out, with its reason.
"""

import importlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import ObjectStore, from_url
from zlib_ng.zlib_ng import crc32

from shards.codec import ARRAYS, decode_array, decode_meta, decode_picture
from shards.columns import MemberSpan
from shards.fetch import MAX_GAP_BYTES, coalesce
from shards.manifest import Manifest
from shards.reader import Request, ShardReader
from shards.schema import META, POINTS, view_member
from shards.store import LocalStore, open_store, put_once

NUM_VIEWS = 20

# Reads every sample once and gives how many there were.
Epoch = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is wanted of each sample.

    Attributes:
        name: in the results.
        views_per_sample: how many of its views, others for each sample.
    """

    name: str
    views_per_sample: int

    def views(self, number: int) -> tuple[int, ...]:
        """Choose the views of a sample."""
        return tuple((7 * number + view) % NUM_VIEWS for view in range(self.views_per_sample))

    def members(self, number: int) -> frozenset[str]:
        """Name the members that are really needed."""
        return frozenset({POINTS, META, *map(view_member, self.views(number))})


SCENARIOS = (Scenario("points", 0), Scenario("one_view", 1), Scenario("all_views", NUM_VIEWS))


def decode(members: Mapping[str, bytes], views: Sequence[int]) -> None:
    """Do with a sample's members what every contestant has to do."""
    decode_array(members[POINTS], *ARRAYS[POINTS])
    decode_meta(members[META])
    for view in views:
        decode_picture(members[view_member(view)])


def ours(manifest: Manifest, order: Sequence[int], scenario: Scenario) -> Epoch:
    """Read through `ShardReader.stream`."""
    reader = ShardReader(manifest, members=(POINTS,))

    def epoch() -> int:
        count = 0
        requests = (Request(number, scenario.views(number)) for number in order)
        for sample in reader.stream(requests, read_ahead=32):
            assert sample is not None
            for content in sample.pictures.values():
                decode_picture(content)
            count += 1
        return count

    return epoch


def floor(manifest: Manifest, order: Sequence[int], scenario: Scenario) -> Epoch:
    """Read the bytes that are needed, wherever they are known to lie, check and decode them."""
    places = {number: _place(manifest, number, scenario) for number in order}
    store = open_store(manifest.url)
    if isinstance(store, LocalStore):
        descriptors = {
            shard.name: os.open(store.root / shard.name, os.O_RDONLY) for shard in manifest.shards
        }
        return lambda: _floor_of_files(descriptors, places, order)
    objects = store_of(manifest)
    return lambda: _floor_of_bucket(objects, places, order)


def store_of(manifest: Manifest) -> ObjectStore:
    """Open a set's bucket by obstore alone."""
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(manifest.url, client_options={"allow_http": is_plain})


def _place(
    manifest: Manifest, number: int, scenario: Scenario
) -> tuple[str, tuple[MemberSpan, ...]]:
    names = scenario.members(number)
    spans = tuple(span for span in manifest.row(number).members if span.name in names)
    return manifest.shard_of(number).name, spans


def _floor_of_files(
    descriptors: dict[str, int],
    places: dict[int, tuple[str, tuple[MemberSpan, ...]]],
    order: Sequence[int],
) -> int:
    for number in order:
        shard, spans = places[number]
        for span in spans:
            _decode_checked(span, os.pread(descriptors[shard], span.length, span.offset))
    return len(order)


def _floor_of_bucket(
    objects: ObjectStore,
    places: dict[int, tuple[str, tuple[MemberSpan, ...]]],
    order: Sequence[int],
) -> int:
    """As many requests at once as we make, each for a run of members as ours are."""

    def fetch(number: int) -> None:
        shard, spans = places[number]
        for start, length, run in coalesce(spans, MAX_GAP_BYTES["network"]):
            content = bytes(obstore.get_range(objects, shard, start=start, length=length))
            for span in run:
                first = span.offset - start
                _decode_checked(span, content[first : first + span.length])

    with ThreadPoolExecutor(8) as threads:
        return sum(1 for _ in threads.map(fetch, order))


def _decode_checked(span: MemberSpan, content: bytes) -> None:
    if crc32(content) != span.crc32:
        raise ValueError(f"{span.name} is damaged")
    if span.name == POINTS:
        decode_array(content, *ARRAYS[POINTS])
    elif span.name == META:
        decode_meta(content)
    else:
        decode_picture(content)


def webdataset(manifest: Manifest, scenario: Scenario) -> Epoch:
    """Read the same tars by the stock library, which parses them from end to end."""
    import webdataset as wds  # pyright: ignore[reportMissingTypeStubs]

    opener = importlib.import_module("webdataset.gopen").gopen_schemes
    store = open_store(manifest.url)

    def open_object(url: str, mode: str = "rb", bufsize: int = 8192) -> io.BytesIO:
        return io.BytesIO(store.get(url.rpartition("/")[2]))

    opener["s3"] = open_object
    urls = [f"{manifest.url}/{shard.name}" for shard in manifest.shards]

    def epoch() -> int:
        count = 0
        for count, found in enumerate(wds.compat.WebDataset(urls, shardshuffle=False), 1):
            decode(found, scenario.views(count - 1))
        return count

    return epoch


def litdata(manifest: Manifest, folder: Path, scenario: Scenario) -> Epoch:
    """Read the same members out of litdata's chunks, one item a sample; from a folder.

    Its S3 client (0.2.76) takes https alone, which the server of this benchmark does not speak.
    """
    from litdata import StreamingDataset  # pyright: ignore[reportMissingImports]
    from litdata.streaming.writer import BinaryWriter  # pyright: ignore[reportMissingImports]

    if not (folder / "index.json").exists():
        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        for number, members in enumerate(_all_members(manifest)):
            writer[number] = members
        writer.done()
        writer.merge()

    def epoch() -> int:
        count = 0
        for count, found in enumerate(StreamingDataset(str(folder)), 1):
            decode(found, scenario.views(count - 1))
        return count

    return epoch


def mosaicml_streaming(manifest: Manifest, folder: Path, scenario: Scenario) -> Epoch:
    """Read the same members out of MDS shards, a column a member.

    From a bucket it fetches whole shards into a cache, which is emptied before each epoch.
    """
    from picpoint.encoders.torchvision_import import import_torchvision

    import_torchvision()
    from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports]
    from streaming.base.util import (  # pyright: ignore[reportMissingImports]
        clean_stale_shared_memory,
    )

    if not folder.exists():
        members = list(_all_members(manifest))
        columns = dict.fromkeys(members[0], "bytes")
        with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 26) as writer:
            for each in members:
                writer.write(each)
    remote, local = None, folder
    if "://" in manifest.url:
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        remote, local = _upload(folder, manifest), folder.with_name("mds-cache")

    def opened() -> Iterable[Mapping[str, bytes]]:
        clean_stale_shared_memory()
        return StreamingDataset(remote=remote, local=str(local), batch_size=1, shuffle=False)

    kept = opened() if remote is None else None

    def epoch() -> int:
        count = 0
        if kept is None:
            shutil.rmtree(local, ignore_errors=True)
        for count, found in enumerate(kept or opened(), 1):
            decode(found, scenario.views(count - 1))
        return count

    return epoch


def ray_data(manifest: Manifest, scenario: Scenario) -> Epoch:
    """Read the same tars by ray.data, whose workers parse them from end to end."""
    data = importlib.import_module("ray.data")
    paths = [f"{manifest.url}/{shard.name}" for shard in manifest.shards]

    def epoch() -> int:
        count = 0
        rows = data.read_webdataset(paths, decoder=None).iter_rows()
        for count, found in enumerate(rows, 1):
            decode(found, scenario.views(count - 1))
        return count

    return epoch


def _upload(folder: Path, manifest: Manifest) -> str:
    """Copy a peer's files to the bucket of a set; give their URL there."""
    url = f"{manifest.url.rpartition('/')[0]}/{folder.name}"
    store = open_store(url)
    for path in sorted(folder.iterdir()):
        put_once(store, path.name, path)
    return url


def _all_members(manifest: Manifest) -> Iterator[dict[str, bytes]]:
    reader = ShardReader(manifest)
    for number in range(manifest.num_samples):
        yield reader.read_members(Request(number, tuple(range(NUM_VIEWS))))
