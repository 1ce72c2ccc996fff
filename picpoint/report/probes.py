"""What do probes of frozen features say, beside the same network untrained?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from picpoint.evaluate.frozen_result import FrozenResult, FrozenScores
from picpoint.report.blocks import Section
from picpoint.report.tables import (
    NOTHING,
    Cell,
    Column,
    number,
    percent,
    percent_difference,
    table,
    word,
)


@dataclass(frozen=True, slots=True)
class Probed:
    """Probes of one encoder.

    Attributes:
        name: the folder that they came from.
        result: what they found.
        commit: of the code that ran.
    """

    name: str
    result: FrozenResult
    commit: str


@dataclass(frozen=True, slots=True)
class _Measure:
    title: str
    note: str
    mean: float
    std: float | None


def probe_sections(probes: Sequence[Probed]) -> list[Section]:
    """Lay out probes; none gives no section."""
    if not probes:
        return []
    columns = [
        Column("Measure"),
        Column("Data set"),
        Column("Encoder", is_long=True),
        Column("Clouds fitted", is_number=True),
        Column("Named", is_number=True),
        Column("Pre-trained", is_number=True),
        Column("Random init", is_number=True),
        Column("Difference", is_number=True),
        Column("Commit"),
    ]
    rows = [row for probe in probes for row in _rows(probe)]
    lead = (
        "Top-1 accuracy in per cent on clouds that nothing was fitted on; C of the linear machines "
        "is chosen by folds of the training clouds alone. Where few-shot tasks were fine-tuned, "
        "the control is the whole network trained on them from scratch."
    )
    return [Section("probes", "Frozen features", lead, (table("Probes", columns, rows),))]


def _rows(probe: Probed) -> Iterator[list[Cell]]:
    result = probe.result
    mine = list(_measures(result.pretrained))
    random = list(_measures(result.random_init)) if result.random_init else [None] * len(mine)
    for own, other in zip(mine, random, strict=True):
        yield [
            word(own.title, own.note),
            word(result.dataset, f"{result.evaluated_on}, {result.num_points} points"),
            word(result.encoder or probe.name, result.weights),
            number(result.num_train),
            number(result.num_evaluated),
            percent(own.mean, own.std),
            Cell("not run", None) if other is None else percent(other.mean, other.std),
            NOTHING if other is None else percent_difference(own.mean - other.mean),
            word(probe.commit),
        ]


def _measures(scores: FrozenScores) -> Iterator[_Measure]:
    for solver, score in scores.svm.items():
        chosen = f"C = {score.penalty:g}"
        yield _Measure(f"Linear SVM ({solver})", chosen, score.accuracy, None)
    yield _Measure("k-NN", "", scores.knn, None)
    for how, tasks in (("", scores.few_shot), (", fine-tuned", scores.few_shot_tuned)):
        for task in tasks:
            title = f"{task.ways}-way {task.shots}-shot{how}"
            yield _Measure(title, f"{task.trials} tasks", task.mean, task.std)
