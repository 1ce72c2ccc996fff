"""Which fine-tuning runs belong together? Those that differ in the seed alone are repeats."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from picpoint.train.examples import LabelledCloud
from picpoint.train.finetune_log import EvaluationReport
from picpoint.train.finetune_result import MAIN_FIGURE, FinetuneResult

Item = TypeVar("Item")

# Settings in which a run from pre-trained weights may differ from its control.
_OF_BEGINNING = ("weights.sha256", "initialise", "freeze")
# Settings in which the folds of a benchmark differ.
_OF_SPLITS = ("data.train", "data.test", "data.digest")


@dataclass(frozen=True, slots=True)
class Finetuning:
    """A finished fine-tuning run.

    Attributes:
        name: the folder that it came from.
        result: what came of it.
        evaluations: on the way, in their order.
        examples: clouds with their labels and its own, where points are labelled.
        gflops: of its encoder's usual form, for one cloud forward; None where it is not counted.
        commit: of the code that finished it.
    """

    name: str
    result: FinetuneResult
    evaluations: tuple[EvaluationReport, ...]
    examples: tuple[LabelledCloud, ...]
    gflops: float | None
    commit: str


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in the seed alone.

    Attributes:
        runs: at least one.
    """

    runs: tuple[Finetuning, ...]

    @property
    def result(self) -> FinetuneResult:
        """What the first of them says of all."""
        return self.runs[0].result

    @property
    def names(self) -> str:
        """Name the folders."""
        return ", ".join(run.name for run in self.runs)

    @property
    def beginning(self) -> str:
        """Say where the weights began."""
        result = self.result
        if not result.weights:
            return "from scratch"
        return "frozen, pre-trained" if result.settings.get("freeze") else "pre-trained"

    @property
    def encoder(self) -> str:
        """Name the point encoder."""
        return str(self.result.settings.get("point_encoder.name", "?"))

    @property
    def main_figure(self) -> str:
        """Name the figure that its task is judged by."""
        return main_figure(self.result)

    @property
    def title(self) -> str:
        """Name it in headings."""
        return f"{self.result.task}, {self.encoder} {self.beginning}, {self.result.dataset}"

    def figure(self, name: str) -> "Spread":
        """Give a figure of the last epoch over the seeds."""
        return spread(run.result.last[name] for run in self.runs if name in run.result.last)

    def best(self, name: str) -> "Spread":
        """Give a figure of each run's best evaluation."""
        return spread(run.result.best[name] for run in self.runs if name in run.result.best)

    @property
    def confusion(self) -> list[list[int]]:
        """Sum the confusion matrices of all seeds."""
        layers = [run.result.confusion for run in self.runs]
        return [
            [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*layers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: None where no run has it.
        std: of the sample; None for fewer than two.
    """

    mean: float | None
    std: float | None


def main_figure(result: FinetuneResult) -> str:
    """Name the figure that a result is judged by."""
    return MAIN_FIGURE.get(result.task) or next(iter(result.last))


def spread(values: Iterable[float]) -> Spread:
    """Give mean and deviation."""
    of_seeds = list(values)
    return Spread(
        mean=statistics.fmean(of_seeds) if of_seeds else None,
        std=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
    )


def group_runs(runs: Sequence[Finetuning]) -> list[RunGroup]:
    """Put runs together that differ in the seed alone, in the order in which they came."""
    groups = _group(runs, lambda run: _key(run.result, ("seed",)))
    return [RunGroup(tuple(group)) for group in groups]


def group_folds(runs: Sequence[Finetuning], splits: Sequence[str]) -> list[RunGroup]:
    """Put runs together, one for each split, that differ in what they are measured on alone."""
    groups = _group(runs, lambda run: _key(run.result, _OF_SPLITS, with_split=False))
    wanted = sorted(splits)
    return [
        RunGroup(tuple(group))
        for group in groups
        if sorted(run.result.evaluated_on for run in group) == wanted
    ]


def group_controls(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """Put groups together that differ in the weights that they began from alone."""
    return _group(groups, lambda group: _key(group.result, ("seed", *_OF_BEGINNING)))


def _key(result: FinetuneResult, without: tuple[str, ...], with_split: bool = True) -> str:
    settings = {key: value for key, value in result.settings.items() if key not in without}
    split = result.evaluated_on if with_split else ""
    told = (result.dataset, result.dataset_digest, result.task, split, settings)
    return json.dumps(told, sort_keys=True, default=str)


def _group(items: Sequence[Item], key: Callable[[Item], str]) -> list[list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
