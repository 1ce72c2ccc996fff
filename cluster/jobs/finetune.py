"""`picpoint finetune`: a task is learnt from labelled clouds, from scratch or from pre-training."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.record import done_stage, keep_or_start
from cluster.run_cost import bytes_of_cloud, finetune_cost
from cluster.runtime import RuntimeConfig, absolute_place, resume_from
from cluster.trackers import TrackerName
from cluster.training import train_to_the_end
from picpoint.data.dataset import Dataset, open_dataset
from picpoint.data.dataset_split import check_sizes
from picpoint.train.claim import check_owner, owner_of
from picpoint.train.differences import name_differences
from picpoint.train.finetune import finetune
from picpoint.train.finetune_log import FinetuneReport
from picpoint.train.finetune_result import RESULT_FILE, FinetuneResult, read_result
from picpoint.train.finetune_settings import FinetuneConfig, build_network, choose_clouds
from picpoint.train.notice import Notice
from picpoint.train.pretrained import read_pretrained
from picpoint.train.restore import own_checkpoint
from picpoint.train.settings import rows_of_ranks
from picpoint.weights.transfer import transfer_weights
from shards.cloud_sets import CloudReader

# What may differ when a run goes on.
_MOOT = (
    *("out", "resume", "runtime", "trackers", "log_every", "eval_batch"),
    *("checkpoint_every", "keep_checkpoints"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneJob(FinetuneConfig):
    """A fine-tuning run and where it runs.

    Attributes:
        out: folder of the run: checkpoints, logs, settings, result.
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
    def command(self) -> str:
        """Which command runs it."""
        return "finetune"

    @property
    def resume_from(self) -> str:
        """`auto`, `never`, or where from."""
        return resume_from(self.resume)

    @property
    def training(self) -> FinetuneConfig:
        """The run itself, without where it runs."""
        names = [each.name for each in dataclasses.fields(FinetuneConfig)]
        return FinetuneConfig(**{name: getattr(self, name) for name in names})

    def train(self, device: torch.device, notice: Notice) -> Iterator[FinetuneReport]:
        """Run this rank's part."""
        return finetune(self.training, Path(self.out), device, self.resume_from, notice)

    def with_absolute_paths(self) -> "FinetuneJob":
        """Name every folder as it is named from any other."""
        resume, data = self.resume_from, self.data
        return dataclasses.replace(
            self,
            out=absolute_place(self.out),
            data=dataclasses.replace(
                data,
                shards=absolute_place(data.shards),
                cache_dir=absolute_place(data.cache_dir) if data.cache_dir else "",
            ),
            # A name on the Hub is no folder here, and stays.
            weights=absolute_place(self.weights) if Path(self.weights).exists() else self.weights,
            checkpoints=absolute_place(self.checkpoints) if self.checkpoints else "",
            resume=resume if resume in ("auto", "never") else absolute_place(resume),
        )


def describe(job: FinetuneJob) -> list[str]:
    """Say what would be read, run and written."""
    reader = CloudReader(job.data.shards, cache=job.data.cache)
    dataset = open_dataset(reader)
    clouds = choose_clouds(job.training, dataset)
    check_sizes(job.data, dataset, clouds.split)
    rows = rows_of_ranks(clouds.plan, job.ghost_batch, job.runtime.most_workers)
    num_bytes = bytes_of_cloud(reader.manifest.row(0).members, job)
    begins = f"from {job.weights}" if job.weights else "from scratch"
    split = clouds.split
    return [
        f"read   {len(split.train)} clouds to train on and {len(split.evaluated)} to evaluate on "
        f"({job.data.evaluate_on}) from {job.data.shards}",
        f"train  {job.task} with {job.point_encoder.name} {begins}, {job.epochs} epochs of "
        f"{clouds.plan.batches_per_epoch} steps, global batch {job.global_batch} as "
        f"{' + '.join(map(str, rows))} over {len(rows)} ranks ({job.runtime.name})",
        finetune_cost(job, len(split.train), len(split.evaluated), num_bytes).line,
        f"write  {RESULT_FILE} to {job.out}, checkpoints to {job.checkpoints_of(Path(job.out))}",
    ]


def run(job: FinetuneJob) -> None:
    """Train until the end or until Ctrl-C, and print what came of it.

    Raises:
        KeyboardInterrupt: the run was stopped; its checkpoint is written.
        PlanError: the ranks do not share the ghost batches.
        DatasetError, CheckpointError, ClaimError, ShardError, TransferRefusedError,
            NonFiniteLossError: as `finetune`.
    """
    out = Path(job.out)
    dataset = open_dataset(CloudReader(job.data.shards, cache=job.data.cache))
    clouds = choose_clouds(job.training, dataset)
    # Before anything is written: a record of this run would stand in the way of its mending.
    check_sizes(job.data, dataset, clouds.split)
    if job.weights and done_stage(job.out, job.command) is None:
        _check_weights(job, dataset)
    rows_of_ranks(clouds.plan, job.ghost_batch, job.runtime.most_workers)
    folder = job.checkpoints_of(out)
    check_owner(folder, owner_of(out, job.checkpoints))
    stage = keep_or_start(job.out, job.command, job, clouds.plan.digest, moot=_MOOT)
    if not stage.kept:
        found = own_checkpoint(folder, job.resume_from)
        resumed_at = 0 if found is None else found.state["samples_seen"] // job.global_batch
        # From here on, whoever begins again goes on.
        job = dataclasses.replace(job, resume="auto" if job.resume_from == "never" else job.resume)
        train_to_the_end(job, folder, _summary, resumed_at)
        stage.finish()
    print(format_result(read_result(out)))


def _check_weights(job: FinetuneJob, dataset: Dataset) -> None:
    """Make sure that a run can begin from its weights; say in what the encoders are unlike.

    The number of neighbours, a radius or a stride may be another than the weights were learnt with,
    and no tensor shows it.

    Raises:
        EncoderFileError, CheckpointError, TransferRefusedError: it cannot.
    """
    pretrained = read_pretrained(job.weights)
    network = build_network(job.training, dataset)
    transfer_weights(network.trunk, pretrained.state, job.initialise)
    was, now = (dataclasses.asdict(each) for each in (pretrained.config, job.point_encoder))
    # The stage that gives local features has no meaning here.
    if unlike := name_differences(was, now, may_differ=("local_stage",)):
        print(f"weights of {job.weights}: point_encoder is another than theirs ({unlike})")


def _summary(report: Mapping[str, float]) -> str:
    return (
        f"step {report['step']}/{report['total_steps']}  {report['samples_per_s']:.1f} clouds/s  "
        f"loss {report['loss']:.3f} ({report['accuracy']:.0%})  ETA {report['eta_s']:.0f} s"
    )


def format_result(result: FinetuneResult) -> str:
    """Print what a table of results must say of a run."""
    begun = f"pre-trained ({result.weights})" if result.weights else "from scratch"
    lines = [
        f"{result.task} on {result.dataset}, {result.evaluated_on}: {result.num_train} clouds "
        f"trained on, {result.num_evaluated} evaluated; {begun}",
        f"{'figure':28} {'last epoch':>10} {'best':>10} (epoch {result.best_epoch}, of "
        f"{result.num_evaluations} evaluations)",
    ]
    for name, value in result.last.items():
        best = f"{100 * result.best[name]:10.2f}" if name in result.best else f"{'':10}"
        lines.append(f"{name:28} {100 * value:10.2f} {best}")
    return "\n".join(lines)
