"""`picpoint reproduce`: the commands of an experiment, one after the other, from data to results.

The same command goes on from what is finished, because each of its commands does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from cluster.app import load_command
from cluster.compose import ConfigError, compose_config
from cluster.exit_codes import MISSING, exit_code
from cluster.jobs.finetune import FinetuneJob
from cluster.jobs.pretrain import PretrainJob
from cluster.run_cost import RunCost, finetune_cost, pretrain_cost

Command = Literal["render", "pretrain", "probe", "finetune"]
Encoder = Literal["dgcnn", "pointnext_s"]


@dataclass(frozen=True, slots=True)
class ExperimentStep:
    """One command of an experiment.

    Attributes:
        name: what it is; no command's name, so that `more` can tell the two apart.
        command: of picpoint.
        overrides: KEY=VALUE.
        encoders: point encoders that it is for; all if empty.
        num_train: samples learnt from, as published; reckoned with while the data is not there.
        num_test: likewise, of those measured on.
        bytes_each: likewise, read of a sample.
    """

    name: str
    command: Command
    overrides: tuple[str, ...]
    encoders: tuple[Encoder, ...] = ()
    num_train: int = 0
    num_test: int = 0
    bytes_each: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceJob:
    """An experiment and where its data lies.

    Attributes:
        name: of the experiment.
        note: what it is, and what it is not.
        steps: its commands.
        out: folder of its runs; shared by all machines.
        meshes: what is rendered.
        shards: rendered shard set; made where it is not there.
        clouds: folder or URL under which labelled data sets lie, each named as picpoint data
            prepare names it.
        encoder: which point encoder.
        training: overrides of every pretrain and finetune, as precision=fp32.
        more: overrides of all steps of a command, as pretrain.runtime.num_workers=8 (fine-tuning,
            of two ghost batches a step, has room for two), or of one step by its name, as
            pretrain_parts.epochs=50; of two that set the same key, the later one counts.
    """

    name: str
    note: str
    steps: tuple[ExperimentStep, ...]
    out: str
    meshes: str
    shards: str
    clouds: str
    encoder: Encoder
    training: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"steps {names}: at least one is needed, and each name once")
        if taken := sorted(set(names) & set(get_args(Command))):
            raise ValueError(
                f"steps: {taken[0]!r} is the name of a command, and more=[{taken[0]}.KEY=VALUE] is "
                "of all its steps; give the step a name of its own"
            )
        steps = [step for step in self.steps if self.has(step)]
        commands, names = {step.command for step in steps}, [step.name for step in steps]
        for override in self.more:
            if override.partition(".")[0] not in {*commands, *names}:
                raise ValueError(
                    f"more: {override!r} begins with no command and no step of encoder="
                    f"{self.encoder}; write "
                    f"COMMAND.KEY=VALUE ({', '.join(sorted(commands))}) or STEP.KEY=VALUE "
                    f"({', '.join(names)})"
                )

    def has(self, step: ExperimentStep) -> bool:
        """Tell whether a step is one of its encoder's."""
        return not step.encoders or self.encoder in step.encoders

    def overrides_of(self, step: ExperimentStep) -> list[str]:
        """Give all overrides of a step; those that are told last win."""
        is_training = step.command in ("pretrain", "finetune")
        told = (override.partition(".") for override in self.more)
        own = [rest for whose, _, rest in told if whose in (step.command, step.name)]
        return [*step.overrides, *(self.training if is_training else ()), *own]


@dataclass(frozen=True, slots=True)
class _Step:
    """A step whose settings are checked."""

    told: ExperimentStep
    line: str
    module: ModuleType
    job: object


def describe(job: ReproduceJob) -> list[str]:
    """Say which commands would run, and what each reads, writes and costs."""
    lines, costs = [job.note], list[RunCost]()
    for step in _steps(job):
        lines += ["", f"{step.told.name}: {step.line}"]
        lines += _described(step)
        cost = _reckoned(step)
        costs += [cost] if cost else []
    flops = sum(cost.flops for cost in costs)
    lines += [
        "",
        f"in all {len(costs)} trainings of {sum(cost.steps for cost in costs):,} steps; by "
        f"published counts {flops / 1e18:.3g} EFLOPs, "
        f"{sum(cost.read_bytes for cost in costs) / 1e12:.3g} TB read",
    ]
    return lines


def run(job: ReproduceJob) -> None:
    """Run the commands; all settings are checked before the first.

    Raises:
        ConfigError: a command's settings are wrong.
    """
    steps = list(_steps(job))
    for number, step in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {step.told.name}: {step.line}", flush=True)
        step.module.run(step.job)


def _steps(job: ReproduceJob) -> Iterator[_Step]:
    for step in job.steps:
        if not job.has(step):
            continue
        overrides = job.overrides_of(step)
        try:
            module, loaded = load_command(step.command, compose_config(step.command, overrides))
        except ConfigError as error:
            raise ConfigError(f"{job.name}, {step.name}: {error}") from error
        yield _Step(step, f"picpoint {step.command} {' '.join(overrides)}", module, loaded)


def _described(step: _Step) -> list[str]:
    """Have the command describe itself, or say what is not there yet."""
    try:
        return [f"  {line}" for line in step.module.describe(step.job)]
    except Exception as error:
        code, told = exit_code(error)
        if code != MISSING:
            raise
        lines = [f"  waits  {told}"]
        if cost := _reckoned(step):
            lines.append(f"  {cost.line} ({step.told.num_train:,} samples, as published)")
        return lines


def _reckoned(step: _Step) -> RunCost | None:
    """Reckon with published counts; None for a command that trains nothing."""
    told = step.told
    match step.job:
        case PretrainJob() as job:
            return pretrain_cost(job, told.num_train, told.bytes_each)
        case FinetuneJob() as job:
            return finetune_cost(job, told.num_train, told.num_test, told.bytes_each)
        case _:
            return None
