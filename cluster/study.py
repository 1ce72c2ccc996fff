"""What is a study? Settings that vary, the commands of a trial, and the figure that judges it.

A trial is told by its settings alone: its folder is named by their hash, so the same settings are
trained once, whoever asks for them, and a study that is begun again goes on. Its commands are those
of the command line, which go on from what is finished, too.
"""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np

from cluster.compose import ConfigError, flatten
from cluster.parameter import Parameter, Settings, Value, draw, spread
from cluster.population import PopulationConfig
from picpoint.train.settings import CHANGEABLE

# A place in a command's settings that is filled in for each trial.
TRIAL = "{trial}"
_PLAIN = re.compile(r"[\w./:+@-]*")
# Names a trial's variant among its settings.
VARIANT = "variant"


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
            line for each evaluation. `population` trains in generations, of which the best pass on
            their weights (cluster/population.py); the first one is drawn at `random`.
        population: for `population`.
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
    scheduler: Literal["none", "asha", "population"] = "none"
    population: PopulationConfig = field(default_factory=PopulationConfig)
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
        if self.scheduler == "population":
            _check_population(self, keys)


def _check_values(parameter: Parameter, search: str) -> None:
    low, high = parameter.low, parameter.high
    is_range = low is not None and high is not None and low < high
    if bool(parameter.values) == is_range or (is_range and search == "grid"):
        range_too = "" if search == "grid" else " or low and high, in this order,"
        raise ValueError(
            f"study.parameters: {parameter.key} has values {list(parameter.values)}, low {low}, "
            f"high {high}; values{range_too} are needed"
        )
    if parameter.log and low is not None and low <= 0:
        raise ValueError(
            f"study.parameters: {parameter.key} has low {low} and log=true: a range of orders of "
            "magnitude begins above 0"
        )


def _check_population(study: StudyConfig, keys: Sequence[str]) -> None:
    """Refuse what no population can have; its members begin from each other's checkpoints."""
    if study.search != "random":
        raise ValueError(
            f"study.scheduler=population: draws its first generation, and no search={study.search} "
            "does; set study.search=random"
        )
    if study.steps[0].command != "pretrain" or study.variants or study.repeats:
        raise ValueError(
            "study.scheduler=population: its first command must be pretrain, and it has neither "
            "variants nor repeats: members of a population are not independent of each other"
        )
    changeable = [f"pretrain.{key}" for key in CHANGEABLE]
    if fixed := [key for key in keys if key not in changeable]:
        raise ValueError(
            f"study.scheduler=population: {', '.join(fixed)} cannot change in the midst of a run; "
            f"these can: {', '.join(changeable)}"
        )
    # Moved by a factor and rounded, 1 would stay 1 for ever.
    if whole := [each for each in study.parameters if not each.values and each.is_whole]:
        raise ValueError(
            f"study.scheduler=population: {whole[0].key} has low: {whole[0].low} and high: "
            f"{whole[0].high}, whole numbers, and what may change in mid-run has fractions; write "
            f"{whole[0].low}.0 and {whole[0].high}.0"
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
                yield spread(parameters, [draw(parameter, dice) for parameter in parameters])
        case "optuna":
            raise ConfigError("study.search=optuna: its trials follow from results")


def choices_of(study: StudyConfig) -> list[Parameter]:
    """Give all that varies, variants first."""
    names = tuple(variant.name for variant in study.variants)
    variants = [Parameter(VARIANT, names)] if names else []
    return [*variants, *study.parameters]


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
                *(f"{key}={_as_override(value, folder)}" for key, value in settings.items()),
            ]
            if override.partition(".")[0] == step.command
        ]
        lines.append([step.command, *fixed, *varied])
    return lines


def _of_variant(study: StudyConfig, settings: Settings) -> tuple[str, ...]:
    """Give the overrides of a trial's variant."""
    named = {variant.name: variant.overrides for variant in study.variants}
    return named[str(settings[VARIANT])] if named else ()


def _as_override(value: Value, folder: str) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            filled = value.replace(TRIAL, folder)
            # Quoted as Hydra reads it, where it is not plain.
            return filled if _PLAIN.fullmatch(filled) else json.dumps(filled)
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
    told = {name: value for name, value in flatten(json.loads(text)) if _is_number(value)}
    if key not in told:
        near = ", ".join(difflib.get_close_matches(key, told, cutoff=0.0)) or "none at all"
        raise ConfigError(
            f"study.figure.key={key}: {path} has no such number; the nearest of its own: {near}"
        )
    return float(told[key])


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def varied_keys(study: StudyConfig) -> Sequence[str]:
    """Give the parameters that a table of the study has a column for."""
    return [each.key for each in choices_of(study) if each.key not in study.repeats]
