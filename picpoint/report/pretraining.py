"""How did pre-training runs go? What they were, their curves, and probes on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from picpoint.report.blocks import Block, Section
from picpoint.report.line_charts import LineCharts
from picpoint.report.plots import LineChart, LineStyle, Series, line_chart
from picpoint.report.tables import Cell, Column, Table, number, percent, table, word
from picpoint.report.training_log import TrainingLog


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A pre-training run.

    Attributes:
        name: the folder that it came from.
        log: what it told of itself.
        probes: (samples seen, accuracy 0..1) of the linear probes while it went on.
        settings: what a reader wants to know of its settings, by name.
        parameters: of the point encoder.
        commit: of the code that finished it; "" where it is not finished.
    """

    name: str
    log: TrainingLog
    probes: Float64[np.ndarray, "n 2"]
    settings: Mapping[str, str]
    parameters: int
    commit: str


def pretraining_sections(runs: Sequence[Pretraining]) -> list[Section]:
    """Lay out pre-training runs; none gives no section."""
    if not runs:
        return []
    charts = list(training_charts([run.log for run in runs]))
    if any(len(run.probes) for run in runs):
        probes = tuple(run.probes for run in runs if len(run.probes))
        title = "Linear probe on the way"
        charts.append(line_chart(title, [Series("accuracy", "accent", probes)], percent=True))
    blocks: tuple[Block, ...] = (_runs_table(runs), LineCharts(tuple(charts)))
    lead = "One curve per run, over samples seen." if len(runs) > 1 else "Over samples seen."
    return [Section("pretraining", "Pre-training runs", lead, blocks)]


def _runs_table(runs: Sequence[Pretraining]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    columns = [
        Column("Run", is_long=True),
        Column("Samples seen", is_number=True),
        Column("Loss", is_number=True),
        Column("Shape to picture, %", is_number=True),
        Column("Last probe, %", is_number=True),
        Column("Samples a second", is_number=True),
        Column("M parameters", is_number=True),
        *(Column(name) for name in names),
        Column("State"),
    ]
    return table(
        "Pre-training runs",
        columns,
        [
            [
                word(run.name),
                *_last_line(run),
                number(run.parameters / 1e6),
                *(word(run.settings.get(name, "")) for name in names),
                word(f"finished at {run.commit}" if run.commit else "not finished"),
            ]
            for run in runs
        ],
        "Loss and retrieval are of the last logged step's batch; the probe's shapes are those of "
        "the validation fold.",
    )


def _last_line(run: Pretraining) -> list[Cell]:
    if not run.log.lines:
        return [number(None)] * 5
    last = run.log.lines[-1]
    probe = float(run.probes[-1, 1]) if len(run.probes) else None
    speed = float(np.median([line.samples_per_s for line in run.log.lines]))
    return [
        number(last.samples_seen),
        number(last.loss, 3),
        percent(last.pooled_top1),
        percent(probe),
        number(speed, 1),
    ]


def training_charts(logs: Sequence[TrainingLog]) -> tuple[LineChart, ...]:
    """Draw the curves of training logs, one for each log."""

    def series(name: str, style: LineStyle, figure: str) -> Series:
        return Series(name, style, tuple(log.curve(figure) for log in logs))

    return (
        line_chart(
            "Loss",
            [
                series("local", "accent", "loss_local"),
                series("global", "ink", "loss_pooled"),
                series("objective", "muted", "loss"),
            ],
        ),
        line_chart(
            "Retrieval within the batch, top-1",
            [
                series("point to pixel", "accent", "local_top1"),
                series("shape to picture", "ink", "pooled_top1"),
            ],
            percent=True,
        ),
        line_chart("Learning rate", [series("learning rate", "ink", "lr")]),
    )


def median_throughput(logs: Sequence[TrainingLog]) -> str:
    """Tell the median of samples a second; "" where nothing was logged."""
    rates = [line.samples_per_s for log in logs for line in log.lines]
    return f"{np.median(rates):.3g}" if rates else ""
