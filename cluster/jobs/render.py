"""`picpoint render`: meshes in, a shard set out. The shard is the unit of work.

Kill any worker, this process or the machine, and run the same command again: finished shards are
kept, the others are made, and the set is the one that an undisturbed run would have made. Several
of these jobs may work on one set at once.
"""

import dataclasses
import hashlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.fleet import FleetConfig, run_tasks
from cluster.progress import ProgressLine
from cluster.record import keep_or_start
from picpoint.assets import DEMO_SHAPES
from picpoint.geometry.rigs import build_cameras
from picpoint.render.capture import CaptureConfig
from picpoint.render.limited import CaptureLimits, LimitedCapture
from picpoint.render.meshes import MeshError
from picpoint.render.renderer import resolve_renderer
from picpoint.render.shard_task import FinishedShard, ShardTask, finish_shard, plan_shards
from picpoint.render.sources import SourceShape, list_shapes
from shards.codec import encode_sample
from shards.errors import ShardError
from shards.manifest import Manifest, load_manifest, publish_manifest
from shards.store import open_store

# Shapes that `--dry-run` tries, to tell what a job will take.
_NUM_TRIED = 5


@dataclass(frozen=True, slots=True)
class RenderJob:
    """What is rendered, how, and to where.

    Attributes:
        source: where the meshes are (see picpoint/render/sources.py); `demo` for the shapes that
            come with picpoint.
        out: folder or URL of the shard set.
        shapes_per_shard: shapes that share a tar file; a shard of some hundred MB suits object
            storage, and a killed worker loses at most one.
        fleet: where the work runs.
        capture: points, cameras and pictures of each shape.
        limits: what a shape may cost before it is rejected.
    """

    source: str
    out: str
    shapes_per_shard: int = 32
    fleet: FleetConfig = field(default_factory=FleetConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    limits: CaptureLimits = field(default_factory=CaptureLimits)

    def __post_init__(self) -> None:
        if self.shapes_per_shard < 1:
            raise ValueError(f"shapes_per_shard={self.shapes_per_shard}: must be at least 1")
        if not self.source.strip() or not self.out.strip():
            raise ValueError(f"source={self.source!r}, out={self.out!r}: name both")
        if (
            self.capture.renderer == "auto"
            and self.fleet.name == "ray"
            and self.fleet.gpus_per_worker
        ):
            raise ValueError(
                "capture.renderer=auto: this machine cannot tell what the cluster's workers have; "
                "name kaolin, cuda or nvdiffrast, or set fleet.gpus_per_worker=0"
            )


@dataclass(slots=True)
class _Tally:
    """What the workers have done so far, for the progress line."""

    num_tasks: int
    num_shapes: int
    num_views: int
    num_workers: int
    started: float = field(default_factory=time.perf_counter)
    finished: list[FinishedShard] = field(default_factory=list)
    made_at_s: list[float] = field(default_factory=list)

    def add(self, shard: FinishedShard) -> None:
        self.finished.append(shard)
        if not shard.was_finished:
            self.made_at_s.append(time.perf_counter() - self.started)

    def __str__(self) -> str:
        elapsed_s = time.perf_counter() - self.started
        made = [shard for shard in self.finished if not shard.was_finished]
        num_kept = len(self.finished) - len(made)
        num_done = sum(map(_num_planned, self.finished))
        views = sum(shard.entry.num_samples for shard in made) * self.num_views
        pace = sum(map(_num_planned, made)) / elapsed_s
        parts = [
            f"{len(self.finished)}/{self.num_tasks} shards",
            f"({num_kept} kept)" if num_kept else "",
            f"{num_done}/{self.num_shapes} shapes",
            f"{views / elapsed_s:.0f} views/s",
            f"{sum(len(shard.entry.rejects) for shard in self.finished)} rejected",
            f"ETA {(self.num_shapes - num_done) / pace:.0f} s" if made else "",
        ]
        return "  ".join(filter(None, parts))

    @property
    def straggling_s(self) -> float:
        """Time that workers stood idle at the end, waiting for the last shard, all together."""
        last = sorted(self.made_at_s)[-self.num_workers :]
        return sum(last[-1] - finished_s for finished_s in last) if last else 0.0


def describe(job: RenderJob) -> list[str]:
    """Say what would be read and written, and what it would take, by trying some of the meshes."""
    job = _with_known_renderer(job)
    shapes = list_shapes(_source_path(job))
    num_shards = len(_plan(job, shapes))
    labels = sorted({shape.label for shape in shapes} - {""})
    return [
        f"read   {len(shapes)} meshes in {len(labels)} classes from {_source_path(job)}",
        f"render {', '.join(job.capture.rig.names)} at {job.capture.rig.size_px} px, "
        f"{job.capture.num_points} points, by {job.capture.renderer}, "
        f"with {job.fleet.num_workers} workers ({job.fleet.name})",
        f"write  {num_shards} shards of up to {job.shapes_per_shard} shapes to {job.out}",
        _estimate(job, shapes),
    ]


def run(job: RenderJob) -> Manifest:
    """Render every mesh of the source that can be; name the others in the manifest's rejects.

    A shard set that was already rendered with the same settings is kept.

    Raises:
        SourceError: the source is missing or holds no mesh.
        RendererMissingError: the renderer cannot draw on this machine.
        RunExistsError: the output holds another shard set.
        StoreError: the output cannot be written.
        MeshError: not one of the meshes can be rendered.
    """
    job = _with_known_renderer(job)
    shapes = list_shapes(_source_path(job))
    stage = keep_or_start(job.out, "render", job, _fingerprint(shapes), moot=("out", "fleet"))
    if stage.kept and (manifest := _whole_manifest(job.out)) is not None:
        return manifest
    tasks = _plan(job, shapes)
    tally = _Tally(
        num_tasks=len(tasks),
        num_shapes=len(shapes),
        num_views=len(build_cameras(job.capture.rig).view_matrices),
        num_workers=job.fleet.num_workers,
    )
    with ProgressLine("render") as progress:
        for shard in run_tasks(finish_shard, _from_anywhere(tasks), job.fleet):
            tally.add(shard)
            progress.show(str(tally))
    entries = sorted((shard.entry for shard in tally.finished), key=lambda entry: entry.name)
    rejects = [reject for entry in entries for reject in entry.rejects]
    if len(rejects) == len(shapes):
        raise MeshError(
            rejects[0].reason,
            f"none of the {len(shapes)} meshes could be rendered; the first: {rejects[0].detail}",
        )
    publish_manifest(open_store(job.out), entries)
    stage.finish()
    reasons = Counter(reject.reason for reject in rejects)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    print(f"{tally}; workers idle at the end {tally.straggling_s:.1f} s", flush=True)
    print(f"rejected: {counts or 'none'}", flush=True)
    return load_manifest(job.out)


def _with_known_renderer(job: RenderJob) -> RenderJob:
    """Say once for the whole set what draws: the record tells it, and a resume keeps to it."""
    name = job.capture.renderer
    if job.fleet.name == "ray":
        known = "cpu" if name == "auto" else name
    else:
        known = resolve_renderer(name)
    return dataclasses.replace(job, capture=dataclasses.replace(job.capture, renderer=known))


def _plan(job: RenderJob, shapes: Sequence[SourceShape]) -> tuple[ShardTask, ...]:
    # Workers of a cluster run in folders of their own.
    out = job.out if "://" in job.out else str(Path(job.out).resolve())
    return plan_shards(shapes, job.shapes_per_shard, out, job.capture, job.limits)


def _from_anywhere(tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """Begin at a random shard, so that jobs that share a set do not follow on each other's heels.

    What comes out does not depend on the order.
    """
    start = random.randrange(len(tasks))
    return [*tasks[start:], *tasks[:start]]


def _num_planned(shard: FinishedShard) -> int:
    return shard.entry.num_samples + len(shard.entry.rejects)


def _source_path(job: RenderJob) -> Path:
    return DEMO_SHAPES if job.source == "demo" else Path(job.source).resolve()


def _estimate(job: RenderJob, shapes: Sequence[SourceShape]) -> str:
    """Capture a few shapes, spread over the list, and tell what all would take."""
    tried = shapes[:: max(1, len(shapes) // _NUM_TRIED)][:_NUM_TRIED]
    num_bytes, num_good = 0, 0
    with LimitedCapture(job.capture, job.limits) as child:
        started = time.perf_counter()
        for shape in tried:
            with suppress(MeshError):
                sample = child.capture(shape)
                num_good += 1
                num_bytes += sum(len(content) for content in encode_sample(sample).values())
    seconds = (time.perf_counter() - started) / len(tried)
    if not num_good:
        return f"guess  none of {len(tried)} meshes tried can be rendered"
    per_shape = num_bytes / num_good
    return (
        f"guess  from {len(tried)} meshes: {per_shape * len(shapes) / 1e9:.2f} GB, "
        f"{per_shape * job.shapes_per_shard / 1e6:.0f} MB a shard; "
        f"{seconds * len(shapes) / 3600:.2f} hours on one core, "
        f"{seconds * len(shapes) / job.fleet.num_workers / 3600:.2f} hours with all workers up"
    )


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
        shards = [shard for shard in manifest.shards if shard.num_samples]
        sizes = [store.size(shard.name) for shard in shards]
    except ShardError as error:
        print(f"rendering again: {error}", flush=True)
        return None
    if sizes != [shard.num_bytes for shard in shards]:
        print(f"rendering again: a shard of {out} is cut short", flush=True)
        return None
    return manifest
