"""`picpoint pretrain`: runs the pre-training loop on this machine's processes or on Ray Train."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.compose import ConfigError
from cluster.record import (
    RunExistsError,
    Stage,
    done_stage,
    keep_or_start,
    recorded_settings,
)
from cluster.run_cost import bytes_of_shape, pretrain_cost
from cluster.runtime import RuntimeConfig, absolute_place, resume_from
from cluster.trackers import TrackerName
from cluster.training import train_to_the_end
from picpoint.train.claim import check_owner, owner_of
from picpoint.train.log import LOG_FILE, StepReport
from picpoint.train.notice import Notice
from picpoint.train.pretrain import pretrain
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
        trackers: where figures go besides the run's log: tensorboard, mlflow, wandb,
            ray (added on a cluster that the run joins).
    """

    out: str
    resume: str | bool = "auto"
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    trackers: tuple[TrackerName, ...] = ()

    @property
    def resume_from(self) -> str:
        """`auto`, `never`, or where from."""
        return resume_from(self.resume)

    @property
    def command(self) -> str:
        """Which command runs it."""
        return "pretrain"

    def train(self, device: torch.device, notice: Notice) -> Iterator[StepReport]:
        """Run this rank's part."""
        return pretrain(self.training, Path(self.out), device, self.resume_from, notice)

    def with_absolute_paths(self) -> "PretrainJob":
        """Name every folder as it is named from any other."""
        resume = self.resume_from
        return dataclasses.replace(
            self,
            out=absolute_place(self.out),
            data=dataclasses.replace(
                self.data,
                shards=absolute_place(self.data.shards),
                features=absolute_place(self.data.features) if self.data.features else "",
                cache_dir=absolute_place(self.data.cache_dir) if self.data.cache_dir else "",
            ),
            checkpoints=absolute_place(self.checkpoints) if self.checkpoints else "",
            resume=resume if resume in ("auto", "never") else absolute_place(resume),
        )

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
        f"{job.epochs_told} epochs of {plan.batches_per_epoch} steps, global batch "
        f"{job.global_batch} as {' + '.join(map(str, rows))} over {_num_ranks(job)} ranks "
        f"({job.runtime.name})",
        pretrain_cost(job, len(selection), bytes_of_shape(manifest.row(0).members, job)).line,
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
    return f"at most {runtime.max_workers}" if runtime.is_elastic else str(runtime.num_workers)


def run(job: PretrainJob) -> None:
    """Train until the end or until Ctrl-C, which leaves a checkpoint to continue from.

    Raises:
        ConfigError: the run would pause before where it begins.
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
    if resumed_at > job.last_epoch * plan.batches_per_epoch:
        raise ConfigError(
            f"pause_after={job.pause_after}: the checkpoint that the run would go on from is of "
            f"step {resumed_at}, {plan.batches_per_epoch} an epoch; pause later"
        )
    stage = _keep_or_start(job, plan)
    if stage.kept:
        return
    # From here on, whoever begins again goes on.
    job = dataclasses.replace(job, resume="auto" if job.resume_from == "never" else job.resume)
    train_to_the_end(job, job.checkpoints_of(out), _summary, resumed_at, _probed)
    stage.finish()


def _keep_or_start(job: PretrainJob, plan: ReadPlan) -> Stage:
    """Begin or go on in the run's folder; where that of a run that paused is in the way, say how.

    Raises:
        RunExistsError: the folder holds a run of other settings or inputs.
    """
    try:
        return keep_or_start(job.out, "pretrain", job, plan.digest, moot=_MOOT)
    except RunExistsError as error:
        pause = recorded_settings(job.out, "pretrain").get("pause_after")
        if not pause:
            raise
        raise RunExistsError(
            f"{error}. It is of a run that pauses after epoch {pause}: to go on from where it "
            f"paused give resume={job.out} and an `out` of its own, and name in resume_changes "
            "what is to be otherwise from there on"
        ) from error


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
        may_differ = (*FOUND_OUT, *job.resume_changes)
        found = named_checkpoint(job.resume_from, settings, may_differ)
    return 0 if found is None else found.state["samples_seen"] // job.global_batch


def _summary(report: Mapping[str, float]) -> str:
    return (
        f"step {report['step']}/{report['total_steps']}  {report['samples_per_s']:.1f} samples/s  "
        f"local {report['loss_local']:.3f} ({report['local_top1']:.0%})  "
        f"global {report['loss_pooled']:.3f} ({report['pooled_top1']:.0%})  "
        f"ETA {report['eta_s']:.0f} s"
    )


def _probed(report: Mapping[str, float]) -> str:
    return f"  probe {report['accuracy']:.1%} (step {report['step']})"
