"""What is a study? Settings that vary, the commands of a trial, and the figure that judges it.

A trial is told by its settings alone: its folder is named by their hash, so the same settings are
trained once, whoever asks for them, and a study that is begun again goes on. Its commands are those
of the command line, which go on from what is finished, too.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.compose import ConfigError

# A place in a command's settings that is filled in for each trial.
TRIAL = "{trial}"
_PLAIN = re.compile(r"[\w./:+@-]*")
# Names a trial's variant among its settings.
VARIANT = "variant"

Value = str | int | float | bool
# Overrides, as COMMAND.KEY -> value.
Settings = Mapping[str, Value]


class StudyFailedError(RuntimeError):
    """No trial of a study has a figure."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a trial.

    Attributes:
        command: such as `pretrain`.
        overrides: KEY=VALUE; `{trial}` stands for the trial's folder.
    """

    command: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """Where a trial's figure stands.

    Attributes:
        file: of JSON, or of a JSON object a line, of which the last counts; `{trial}` stands for
            the trial's folder.
        key: dotted path to a number.
        mode: whether more of it is better.
        title: what it is, for tables.
    """

    file: str
    key: str
    mode: Literal["max", "min"]
    title: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting that varies.

    Attributes:
        key: COMMAND.KEY, or several of them apart by commas, which take the same value.
        values: to choose from.
        low: instead of values, for `random` and `optuna`: the least number.
        high: the largest.
        log: draw evenly over orders of magnitude.
    """

    key: str
    values: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @property
    def keys(self) -> list[str]:
        """Each key of its own."""
        return [single.strip() for single in self.key.split(",")]

    @property
    def bounds(self) -> tuple[int | float, int | float]:
        """The range that is drawn from."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class Variant:
    """A whole change by name.

    Attributes:
        name: of the variant.
        overrides: COMMAND.KEY=VALUE.
    """

    name: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """A study.

    Attributes:
        name: of the study.
        question: that it answers.
        parameters: what varies.
        variants: whole changes, of which each trial has one; none if empty.
        repeats: keys of parameters over which trials are averaged, such as seeds.
        search: every combination (`grid`), or `num_trials` of them at `random` or by `optuna`.
        num_trials: for `random` and `optuna`.
        scheduler: `asha` ends trials early that do badly by `figure`; it must then be a file of a
            line for each evaluation.
        steps: the commands of a trial, one after the other.
        more: further overrides of all trials, COMMAND.KEY=VALUE.
        figure: what a trial is judged by. On a validation split: a test split that chooses is none.
        seed: of the search.
    """

    name: str
    question: str
    parameters: tuple[Parameter, ...]
    steps: tuple[Step, ...]
    figure: Figure
    more: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    repeats: tuple[str, ...] = ()
    search: Literal["grid", "random", "optuna"] = "grid"
    num_trials: int = 20
    scheduler: Literal["none", "asha"] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        commands = [step.command for step in self.steps]
        varies = self.parameters or self.variants
        if not varies or not self.steps or len(set(commands)) < len(commands):
            raise ValueError(
                f"study {self.name}: at least one parameter and one step are needed, and no "
                "command twice"
            )
        keys = [key for parameter in self.parameters for key in parameter.keys]
        keys += [override for variant in self.variants for override in variant.overrides]
        for key in [*keys, *self.more]:
            if key.partition(".")[0] not in commands:
                raise ValueError(
                    f"study: {key!r} begins with none of its commands ({', '.join(commands)}); "
                    "write COMMAND.KEY"
                )
        for parameter in self.parameters:
            _check_values(parameter, self.search)
        if unknown := set(self.repeats) - {parameter.key for parameter in self.parameters}:
            raise ValueError(f"study.repeats: {min(unknown)!r} is none of its parameters")
        if self.num_trials < 1:
            raise ValueError(f"study.num_trials={self.num_trials}: must be at least 1")
        if self.scheduler == "asha" and not self.figure.file.endswith(".jsonl"):
            raise ValueError(
                f"study.scheduler=asha: {self.figure.file} has one figure, at the end; name a "
                ".jsonl"
            )


def _check_values(parameter: Parameter, search: str) -> None:
    low, high = parameter.low, parameter.high
    is_range = low is not None and high is not None and low < high
    if bool(parameter.values) == is_range or (is_range and search == "grid"):
        range_too = "" if search == "grid" else " or low and high, in this order,"
        raise ValueError(
            f"study.parameters: {parameter.key} has values {list(parameter.values)}, low {low}, "
            f"high {high}; values{range_too} are needed"
        )


def points(study: StudyConfig) -> Iterator[Settings]:
    """Enumerate the trials of a grid, or draw those of a random search, always the same.

    Raises:
        ConfigError: the search is one that looks at results.
    """
    match study.search:
        case "grid":
            parameters = choices_of(study)
            for values in itertools.product(*(parameter.values for parameter in parameters)):
                yield spread(parameters, values)
        case "random":
            dice, parameters = np.random.default_rng(study.seed), choices_of(study)
            for _ in range(study.num_trials):
                yield spread(parameters, [_draw(parameter, dice) for parameter in parameters])
        case "optuna":
            raise ConfigError("study.search=optuna: its trials follow from results")


def choices_of(study: StudyConfig) -> list[Parameter]:
    """Give all that varies, variants first."""
    names = tuple(variant.name for variant in study.variants)
    variants = [Parameter(VARIANT, names)] if names else []
    return [*variants, *study.parameters]


def _draw(parameter: Parameter, dice: np.random.Generator) -> Value:
    if parameter.values:
        return parameter.values[int(dice.integers(len(parameter.values)))]
    low, high = parameter.bounds
    if parameter.log:
        drawn = float(np.exp(dice.uniform(np.log(low), np.log(high))))
    else:
        drawn = float(dice.uniform(low, high))
    return round(drawn) if isinstance(low, int) and isinstance(high, int) else drawn


def spread(parameters: Sequence[Parameter], values: Iterable[Value]) -> dict[str, Value]:
    """Give the settings of a trial: of each key its own value."""
    pairs = zip(parameters, values, strict=True)
    return {key: value for parameter, value in pairs for key in parameter.keys}


def trial_id(study: StudyConfig, settings: Settings) -> str:
    """Name a trial by all that decides what comes of it."""
    told = {
        "settings": dict(sorted(settings.items())),
        "variant": _of_variant(study, settings),
        "steps": [[step.command, *step.overrides] for step in study.steps],
        "more": study.more,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def commands_of(study: StudyConfig, settings: Settings, folder: str) -> list[list[str]]:
    """Give the command lines of a trial.

    Args:
        study: its steps.
        settings: what varies.
        folder: of the trial.
    """
    lines: list[list[str]] = []
    for step in study.steps:
        fixed = [override.replace(TRIAL, folder) for override in step.overrides]
        varied = [
            override.partition(".")[2]
            for override in [
                *study.more,
                *_of_variant(study, settings),
                *(f"{key}={_as_override(value)}" for key, value in settings.items()),
            ]
            if override.partition(".")[0] == step.command
        ]
        lines.append([step.command, *fixed, *varied])
    return lines


def _of_variant(study: StudyConfig, settings: Settings) -> tuple[str, ...]:
    """Give the overrides of a trial's variant."""
    named = {variant.name: variant.overrides for variant in study.variants}
    return named[str(settings[VARIANT])] if named else ()


def _as_override(value: Value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if not _PLAIN.fullmatch(value):
            return json.dumps(value)  # quoted, as Hydra reads it
        case _:
            return str(value)


def read_figure(figure: Figure, folder: str) -> list[float]:
    """Read a trial's figure as often as it was told; none where nothing is told yet.

    Raises:
        ConfigError: the file is there, and has no such number.
    """
    path = Path(figure.file.replace(TRIAL, folder))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text.rpartition("\n")[0].splitlines() if path.suffix == ".jsonl" else [text]
    return [_number_at(line, figure.key, path) for line in whole if line.strip()]


def _number_at(text: str, key: str, path: Path) -> float:
    found: Any = json.loads(text)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise ConfigError(f"study.figure.key={key}: {path} has no such number; see what it holds")
    return float(found)


def varied_keys(study: StudyConfig) -> Sequence[str]:
    """Give the parameters that a table of the study has a column for."""
    return [each.key for each in choices_of(study) if each.key not in study.repeats]
