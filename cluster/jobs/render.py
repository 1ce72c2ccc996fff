"""`picpoint render`: meshes in, a shard set out. The shard is the unit of work."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from cluster.pool import worker_pool
from cluster.progress import ProgressLine
from cluster.record import keep_or_start
from picpoint.assets import DEMO_SHAPES
from picpoint.geometry.cameras import build_cameras
from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.meshes import MeshError
from picpoint.render.sources import SourceShape, list_shapes
from shards.columns import shard_name
from shards.errors import ShardError
from shards.manifest import Manifest, Reject, ShardInfo, load_manifest, publish_manifest
from shards.schema import Sample
from shards.store import open_store
from shards.writer import write_shard


@dataclass(frozen=True, slots=True)
class RenderJob:
    """What is rendered, how, and to where.

    Attributes:
        source: folder or zip of meshes (see picpoint/render/sources.py); `demo` for the shapes
            that come with picpoint.
        out: local folder of the shard set.
        shapes_per_shard: shapes that share a tar file.
        num_workers: renderer processes on this machine.
        capture: points, cameras and pictures of each shape.
    """

    source: str
    out: str
    shapes_per_shard: int = 32
    num_workers: int = 2
    capture: CaptureConfig = field(default_factory=CaptureConfig)

    def __post_init__(self) -> None:
        if min(self.shapes_per_shard, self.num_workers) < 1:
            raise ValueError(
                f"shapes_per_shard={self.shapes_per_shard}, num_workers={self.num_workers}: "
                "both must be at least 1"
            )
        if not self.source.strip() or not self.out.strip() or "://" in self.out:
            raise ValueError(
                f"source={self.source!r}, out={self.out!r}: name a source, and a local folder to "
                "write to; copy the finished folder to object storage"
            )


@dataclass(frozen=True, slots=True)
class _ShardDone:
    info: ShardInfo | None  # none where every shape was rejected
    rejects: tuple[Reject, ...]


def describe(job: RenderJob) -> list[str]:
    """Say what would be read and written."""
    shapes = list_shapes(_source_path(job))
    cut = _cut(shapes, job.shapes_per_shard)
    labels = sorted({shape.label for shape in shapes} - {""})
    return [
        f"read   {len(shapes)} meshes in {len(labels)} classes from {_source_path(job)}",
        f"render {job.capture.rig.name} at {job.capture.rig.size_px} px, "
        f"{job.capture.num_points} points, with {job.num_workers} processes",
        f"write  {len(cut)} shards of up to {job.shapes_per_shard} shapes to {job.out}",
    ]


def run(job: RenderJob) -> Manifest:
    """Render every mesh of the source that can be; name the others in the manifest's rejects.

    A shard set that was already rendered with the same settings is kept.

    Raises:
        SourceError: the source is missing or holds no mesh.
        StoreError: the output cannot be written, or holds another shard set.
        MeshError: not one of the meshes can be rendered.
    """
    shapes = list_shapes(_source_path(job))
    stage = keep_or_start(job.out, "render", job, _fingerprint(shapes), moot=("out", "num_workers"))
    if stage.kept and (manifest := _whole_manifest(job.out)) is not None:
        return manifest
    cut = _cut(shapes, job.shapes_per_shard)
    num_views = len(build_cameras(job.capture.rig).view_matrices)
    done: dict[int, _ShardDone] = {}
    with ProgressLine("render") as progress, worker_pool(job.num_workers) as pool:
        futures = {
            pool.submit(_render_shard, number, part, job): number for number, part in cut.items()
        }
        started = time.perf_counter()
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            num_shapes = sum(part.info.num_samples for part in done.values() if part.info)
            views_per_s = num_shapes * num_views / (time.perf_counter() - started)
            num_rejects = sum(len(part.rejects) for part in done.values())
            progress.show(
                f"{len(done)}/{len(cut)} shards  {num_shapes}/{len(shapes)} shapes  "
                f"{views_per_s:.0f} views/s  {num_rejects} rejected"
            )
    ordered = [done[number] for number in sorted(done)]
    infos = [part.info for part in ordered if part.info]
    rejects = [reject for part in ordered for reject in part.rejects]
    if not infos:
        raise MeshError(
            rejects[0].reason,
            f"none of the {len(shapes)} meshes could be rendered; the first: {rejects[0].detail}",
        )
    manifest = publish_manifest(open_store(job.out), infos, rejects)
    stage.finish()
    return manifest


def _source_path(job: RenderJob) -> Path:
    return DEMO_SHAPES if job.source == "demo" else Path(job.source)


def _cut(
    shapes: Sequence[SourceShape], shapes_per_shard: int
) -> dict[int, tuple[SourceShape, ...]]:
    """Cut a list of shapes into shards, by number."""
    starts = range(0, len(shapes), shapes_per_shard)
    return {
        number: tuple(shapes[start : start + shapes_per_shard])
        for number, start in enumerate(starts)
    }


def _render_shard(number: int, shapes: Sequence[SourceShape], job: RenderJob) -> _ShardDone:
    """Render and publish one shard; runs in a worker process."""
    rejects: list[Reject] = []
    samples = _capture_all(shapes, job.capture, rejects)
    first = next(samples, None)
    if first is None:
        return _ShardDone(info=None, rejects=tuple(rejects))
    info = write_shard(open_store(job.out), shard_name(number), chain([first], samples))
    return _ShardDone(info=info, rejects=tuple(rejects))


def _capture_all(
    shapes: Sequence[SourceShape], config: CaptureConfig, rejects: list[Reject]
) -> Iterator[Sample]:
    """Give the samples of the shapes that can be rendered; add the others to `rejects`."""
    for shape in shapes:
        try:
            yield capture(shape.read_mesh(), shape.source_id, shape.label, config)
        except MeshError as error:
            rejects.append(Reject(shape.source_id, error.reason, str(error)))


def _fingerprint(shapes: Sequence[SourceShape]) -> str:
    """Digest a list of shapes: ids, labels, and the size and time of every file."""
    digest = hashlib.sha256()
    for shape in shapes:
        line = (shape.source_id, shape.label, shape.file, *shape.stamp())
        digest.update(repr(line).encode())
    return digest.hexdigest()


def _whole_manifest(out: str) -> Manifest | None:
    """Load a shard set's manifest if every shard is there in its size."""
    try:
        manifest = load_manifest(out)
        store = open_store(out)
        sizes = [store.size(shard.name) for shard in manifest.shards]
    except ShardError as error:
        print(f"rendering again: {error}", flush=True)
        return None
    if sizes != [shard.num_bytes for shard in manifest.shards]:
        print(f"rendering again: a shard of {out} is cut short", flush=True)
        return None
    return manifest
