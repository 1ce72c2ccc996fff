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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.fleet import FleetConfig, run_tasks
from cluster.progress import ProgressLine
from cluster.record import keep_or_start
from picpoint.assets import DEMO_SHAPES
from picpoint.geometry.layouts import from_any_folder
from picpoint.geometry.rigs import build_cameras
from picpoint.render.capture import CaptureConfig
from picpoint.render.capture_child import CaptureLimits
from picpoint.render.limited import LimitedCapture
from picpoint.render.meshes import MeshError
from picpoint.render.renderer import resolve_renderer
from picpoint.render.shard_task import FinishedShard, ShardTask, finish_shard, plan_shards
from picpoint.render.sources import SourceShape, list_shapes
from shards.codec import encode_sample
from shards.columns import ShardEntry
from shards.errors import NotFoundInStoreError, ShardError, StoreError
from shards.manifest import (
    PARTS,
    Manifest,
    load_manifest,
    load_part,
    part_name,
    publish_manifest,
)
from shards.store import open_store

# Shapes that `--dry-run` tries, to tell what a job will take.
_NUM_TRIED = 5
# Requests under way at once; a request to object storage takes some 20 ms, and then nothing.
_ASKED_AT_ONCE = 32
_PIECE_SHAPES = 10_000


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
    started: float = field(default_factory=time.perf_counter)
    entries: list[ShardEntry] = field(default_factory=list[ShardEntry])
    num_kept: int = 0
    num_done: int = 0
    num_made: int = 0
    num_rendered: int = 0
    num_rejects: int = 0

    def add(self, shard: FinishedShard) -> None:
        """Count a shard."""
        num_rejects = len(shard.entry.rejects)
        planned = shard.entry.num_samples + num_rejects
        self.entries.append(shard.entry)
        self.num_done += planned
        self.num_rejects += num_rejects
        if shard.was_finished:
            self.num_kept += 1
        else:
            self.num_made += planned
            self.num_rendered += shard.entry.num_samples

    def __str__(self) -> str:
        elapsed_s = time.perf_counter() - self.started
        left = self.num_shapes - self.num_done
        parts = [
            f"{len(self.entries)}/{self.num_tasks} shards",
            f"({self.num_kept} kept)" if self.num_kept else "",
            f"{self.num_done}/{self.num_shapes} shapes",
            f"{self.num_rendered * self.num_views / elapsed_s:.0f} views/s",
            f"{self.num_rejects} rejected",
            f"ETA {left * elapsed_s / self.num_made:.0f} s" if left and self.num_made else "",
        ]
        return "  ".join(filter(None, parts))


@dataclass(slots=True)
class _Stragglers:
    """How long did workers stand idle while the last shards were made?"""

    num_workers: int
    last_s: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, worker: str) -> None:
        """Note that a worker has finished a shard just now."""
        self.last_s[worker] = time.perf_counter()

    @property
    def idle_s(self) -> float:
        """From the end of each worker's last shard to the end of all, together."""
        last = sorted(self.last_s.values())[-self.num_workers :]
        return sum(last[-1] - finished_s for finished_s in last)


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
    moot = ("out", "fleet", "limits")
    stage = keep_or_start(job.out, "render", job, _fingerprint(shapes), moot)
    if stage.kept and (manifest := _whole_manifest(job.out)) is not None:
        return manifest
    print(f"renderer: {job.capture.renderer}", flush=True)
    tasks = _plan(job, shapes)
    tally = _Tally(
        num_tasks=len(tasks),
        num_shapes=len(shapes),
        num_views=len(build_cameras(job.capture.rig).view_matrices),
    )
    stragglers = _Stragglers(job.fleet.num_workers)
    with ProgressLine("render") as progress:
        for shard in run_tasks(finish_shard, _from_anywhere(tasks), job.fleet):
            tally.add(shard)
            stragglers.add(shard.worker)
            progress.show(str(tally))
    entries = sorted(tally.entries, key=lambda entry: entry.name)
    rejects = [reject for entry in entries for reject in entry.rejects]
    if len(rejects) == len(shapes):
        raise MeshError(
            rejects[0].reason,
            f"none of the {len(shapes)} meshes could be rendered; the first: {rejects[0].detail}",
        )
    _check_all_are_here(job.out, entries)
    publish_manifest(job.out, entries)
    stage.finish()
    reasons = Counter(reject.reason for reject in rejects)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    print(f"{tally}; workers idle at the end {stragglers.idle_s:.1f} s", flush=True)
    print(f"rejected: {counts or 'none'}", flush=True)
    return load_manifest(job.out)


def _check_all_are_here(out: str, entries: Sequence[ShardEntry]) -> None:
    """Refuse a folder that each machine of a cluster has for itself.

    Raises:
        StoreError: a shard was finished elsewhere.
    """
    store = open_store(out)
    try:
        here = set(store.list_names(PARTS))
    except NotFoundInStoreError:
        here = set[str]()
    lost = [entry.name for entry in entries if part_name(entry.name) not in here]
    # A folder of the same name, left from another job, may hold the same names.
    if lost or entries[0] != load_part(store, entries[0].name):
        raise StoreError(
            f"{out}: {lost[0] if lost else entries[0].name} and {max(len(lost) - 1, 0)} other "
            "shards, which workers finished, are not there; give a URL, or a folder that all "
            "machines share"
        )


def _with_known_renderer(job: RenderJob) -> RenderJob:
    """Say once for the whole set what draws; a resume where that is something else is refused."""
    name = job.capture.renderer
    if name == "auto" and (job.fleet.name == "ray" or job.capture.needs_cpu_renderer):
        known = "cpu"
    else:
        known = name if job.fleet.name == "ray" else resolve_renderer(name)
    return dataclasses.replace(job, capture=dataclasses.replace(job.capture, renderer=known))


def _plan(job: RenderJob, shapes: Sequence[SourceShape]) -> tuple[ShardTask, ...]:
    # Workers of a cluster run in folders of their own.
    out = job.out if "://" in job.out else str(Path(job.out).resolve())
    names = tuple(map(from_any_folder, job.capture.rig.names))
    rig = dataclasses.replace(job.capture.rig, names=names)
    capture = dataclasses.replace(job.capture, rig=rig)
    return plan_shards(shapes, job.shapes_per_shard, out, capture, job.limits)


def _from_anywhere(tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """Begin at a random shard, so that jobs that share a set do not follow on each other's heels.

    What comes out does not depend on the order.
    """
    start = random.randrange(len(tasks))
    return [*tasks[start:], *tasks[:start]]


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
    """Digest a list of shapes: ids, labels, and the size and time of every mesh file.

    Not of what a mesh names (materials, textures); nor, of object storage, the time.
    """
    digest = hashlib.sha256()
    for shape, stamp in zip(shapes, _stamps(shapes), strict=True):
        line = (shape.source_id, shape.label, shape.file, *stamp)
        digest.update(repr(line).encode())
    return digest.hexdigest()


def _stamps(shapes: Sequence[SourceShape]) -> Iterator[tuple[int, int]]:
    """Ask after every file; many at once of those in object storage."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        for start in range(0, len(shapes), _PIECE_SHAPES):
            piece = shapes[start : start + _PIECE_SHAPES]
            is_remote = isinstance(piece[0].source, str)
            yield from (threads.map if is_remote else map)(SourceShape.stamp, piece)


def _whole_manifest(out: str) -> Manifest | None:
    """Load a shard set's manifest if every shard is there in its size."""
    try:
        manifest = load_manifest(out)
        store = open_store(out)
        shards = [shard for shard in manifest.shards if shard.num_samples]
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
            sizes = list(threads.map(store.size, [shard.name for shard in shards]))
    except ShardError as error:
        print(f"rendering again: {error}", flush=True)
        return None
    if sizes != [shard.num_bytes for shard in shards]:
        print(f"rendering again: a shard of {out} is cut short", flush=True)
        return None
    return manifest
