"""`picpoint pretrain`: runs the pre-training loop on this machine's processes or on Ray Train."""

import concurrent.futures
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cluster.progress import ProgressLine
from cluster.record import done_stage, keep_or_start, plain
from cluster.runtime import RuntimeConfig, run_on_local_processes, run_on_ray
from cluster.trackers import TrackerName, Trackers
from picpoint.train.background_probe import PROBE_FILE
from picpoint.train.claim import check_owner, owner_of
from picpoint.train.log import LOG_FILE
from picpoint.train.pretrain import STOP_FILE
from picpoint.train.probe_shapes import ProbeShapes, choose_probe_shapes
from picpoint.train.restore import named_checkpoint, own_checkpoint
from picpoint.train.settings import (
    FOUND_OUT,
    PretrainConfig,
    declared_settings,
    plan_run,
    rows_of_ranks,
)
from shards.manifest import Manifest, load_manifest
from shards.plan import ReadPlan

# What may differ when a run goes on.
_MOOT = (
    *("out", "resume", "runtime", "trackers", "micro_batch", "probe"),
    *("log_every", "checkpoint_every", "keep_checkpoints", "milestone_every"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainJob(PretrainConfig):
    """A pre-training run and where it runs.

    Attributes:
        out: folder of the run: checkpoints, log, settings.
        resume: `auto` (or true) goes on from the newest whole checkpoint of this run, if there is
            one; `never` (or false) refuses to; a path or URL of a checkpoint or of a folder of them
            is where a run that has none of its own begins.
        runtime: processes or a Ray cluster.
        trackers: where figures go besides the run's log: tensorboard, mlflow, wandb.
    """

    out: str
    resume: str | bool = "auto"
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    trackers: tuple[TrackerName, ...] = ()

    @property
    def resume_from(self) -> str:
        """`auto`, `never`, or where from."""
        match self.resume:
            case bool():
                return "auto" if self.resume else "never"
            case _:
                return self.resume

    @property
    def training(self) -> PretrainConfig:
        """The run itself, without where it runs."""
        names = [each.name for each in dataclasses.fields(PretrainConfig)]
        return PretrainConfig(**{name: getattr(self, name) for name in names})


def describe(job: PretrainJob) -> list[str]:
    """Say what would be read, run and written."""
    manifest = load_manifest(job.data.shards)
    plan, selection = plan_run(job.training, manifest)
    rows = rows_of_ranks(plan, job.ghost_batch, job.runtime.most_workers)
    probe = _probe_shapes(job, manifest)
    return [
        f"read   {len(selection)} of {manifest.num_samples} shapes from {job.data.shards} "
        f"({manifest.num_samples - len(selection)} held out)",
        f"train  {job.point_encoder.name} from {job.image_encoder.name}, "
        f"{job.epochs} epochs of {plan.batches_per_epoch} steps, global batch "
        f"{job.global_batch} as {' + '.join(map(str, rows))} over {_num_ranks(job)} ranks "
        f"({job.runtime.name})",
        *(
            [
                f"probe  every {job.probe.every} samples: {len(probe.validation)} shapes of the "
                f"{probe.split} named by {len(probe.train)}"
            ]
            if probe
            else []
        ),
        f"write  {LOG_FILE} to {job.out}, checkpoints to {job.checkpoints_of(Path(job.out))}",
    ]


def _num_ranks(job: PretrainJob) -> str:
    runtime = job.runtime
    is_elastic = runtime.max_workers > 0
    return f"at most {runtime.max_workers}" if is_elastic else str(runtime.num_workers)


def run(job: PretrainJob) -> None:
    """Train until the end or until Ctrl-C, which leaves a checkpoint to continue from.

    Raises:
        KeyboardInterrupt: the run was stopped; its checkpoint is written.
        CheckpointError, ClaimError, ProbeError, ShardError, MissingWeightsError,
            NonFiniteLossError: as `pretrain`.
    """
    out = Path(job.out)
    manifest = load_manifest(job.data.shards)
    plan, _ = plan_run(job.training, manifest)
    rows_of_ranks(plan, job.ghost_batch, job.runtime.most_workers)
    _probe_shapes(job, manifest)
    # Before anything is written: a record of this run would stand in the way of its mending.
    check_owner(job.checkpoints_of(out), owner_of(out, job.checkpoints))
    is_done = done_stage(job.out, "pretrain") is not None
    resumed_at = 0 if is_done else _resumed_at(job, plan)
    stage = keep_or_start(job.out, "pretrain", job, plan.digest, moot=_MOOT)
    if stage.kept:
        return
    # From here on, whoever begins again goes on.
    job = dataclasses.replace(job, resume="auto" if job.resume_from == "never" else job.resume)
    (out / STOP_FILE).unlink(missing_ok=True)
    run_workers = run_on_ray if job.runtime.name == "ray" else run_on_local_processes
    with (
        concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="runtime") as thread,
        _stop_on_interrupt(out / STOP_FILE),
        ProgressLine("pretrain") as progress,
        Trackers(job.trackers, out, plain(job), resumed_at) as trackers,
    ):
        # In a thread of its own, because Ray Train would answer Ctrl-C by killing its workers.
        running = thread.submit(run_workers, job)
        log, probes = _follow(out / LOG_FILE), _follow(out / PROBE_FILE)
        is_done, summary, probed = False, "", ""
        while not is_done:
            is_done = not concurrent.futures.wait([running], timeout=0.2).not_done
            for line in next(log):
                trackers.log(json.loads(line))
                summary = _summary(line)
                progress.show(summary + probed)
            for line in next(probes):
                trackers.log_probe(json.loads(line))
                probed = _probed(line)
                progress.show(summary + probed)
        running.result()
    if (out / STOP_FILE).exists():
        raise KeyboardInterrupt(
            f"stopped; its checkpoint is in {job.checkpoints_of(out)}; the same command goes on"
        )
    stage.finish()


def _probe_shapes(job: PretrainJob, manifest: Manifest) -> ProbeShapes | None:
    """Choose whom the run is probed on, if it is.

    Raises:
        ProbeError: there are too few.
    """
    if job.probe.every == 0:
        return None
    return choose_probe_shapes(manifest, job.data.holdout, job.probe, job.ghost_batch)


def _resumed_at(job: PretrainJob, plan: ReadPlan) -> int:
    """Tell the step that a run will go on from.

    Raises:
        CheckpointError: as `restore`, as far as it can be known before a rank is asked.
    """
    found = own_checkpoint(job.checkpoints_of(Path(job.out)), job.resume_from)
    if found is None and job.resume_from not in ("auto", "never"):
        settings = declared_settings(job.training, plan)
        found = named_checkpoint(job.resume_from, settings, may_differ=FOUND_OUT)
    return 0 if found is None else found.state["samples_seen"] // job.global_batch


@contextlib.contextmanager
def _stop_on_interrupt(stop_file: Path) -> Generator[None]:
    """Turn Ctrl-C and SIGTERM into a request to save and end; a second Ctrl-C interrupts."""

    def ask(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop_file.touch()
        print("\nsaving a checkpoint; Ctrl-C again ends without it", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(path: Path) -> Iterator[list[str]]:
    """Give the lines that a log has gained since the last time, whole lines only."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        if path.exists():
            with path.open() as log:
                log.seek(min(position, path.stat().st_size))
                whole = [line for line in log.readlines() if line.endswith("\n")]
            position = min(position, path.stat().st_size) + sum(len(line) for line in whole)
            yield whole
        else:
            yield []


def _summary(line: str) -> str:
    report = json.loads(line)
    return (
        f"step {report['step']}/{report['total_steps']}  {report['samples_per_s']:.1f} samples/s  "
        f"local {report['loss_local']:.3f} ({report['local_top1']:.0%})  "
        f"global {report['loss_pooled']:.3f} ({report['pooled_top1']:.0%})  "
        f"ETA {report['eta_s']:.0f} s"
    )


def _probed(line: str) -> str:
    report = json.loads(line)
    return f"  probe {report['accuracy']:.1%} (step {report['step']})"
