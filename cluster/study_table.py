"""What came of a study? A table over its trials, with repeats averaged, and a plot."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from pydantic import TypeAdapter, ValidationError

mpl.use("agg")
from matplotlib.figure import Figure as Drawing

from cluster.compose import ConfigError
from cluster.parameter import Settings, Value
from cluster.population_table import draw_population, format_population, last_generation
from cluster.study import StudyConfig, varied_keys
from cluster.trial_row import TrialRow
from picpoint.publish import publish_bytes, publish_text

RESULTS_FILE, TABLE_FILE, PLOT_FILE = "study.json", "study.md", "study.svg"


@dataclass(frozen=True, slots=True)
class TableRow:
    """Trials that differ in repeats alone.

    Attributes:
        settings: what they share, by parameter.
        mean: of their figures; None where all failed.
        std: between them, of the sample; None for fewer than two.
        done: how many have a figure.
        failed: how many have none.
    """

    settings: dict[str, Value]
    mean: float | None
    std: float | None
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """What study.json holds.

    Attributes:
        study: what was asked.
        table: its rows, best first; of a population those of the last generation.
        trials: all of them; of a population, generation by generation.
        commit: of the code that ran.
    """

    study: StudyConfig
    table: tuple[TableRow, ...]
    trials: tuple[TrialRow, ...]
    commit: str


def read_study(out: Path) -> StudyRecord:
    """Read what came of a study.

    Raises:
        ConfigError: there is no study.json, or it is damaged.
    """
    path = out / RESULTS_FILE
    try:
        return TypeAdapter(StudyRecord).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: not there; run picpoint tune again, which goes on to the end of the study"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{path}: damaged; run picpoint tune again, which writes it") from error


@dataclass(frozen=True, slots=True)
class _Dot:
    """A point of the plot."""

    x: Any
    mean: float
    std: float


def tabulate(study: StudyConfig, trials: Sequence[TrialRow]) -> list[TableRow]:
    """Average over repeats, best first; rows without a figure come last."""
    groups: dict[str, list[TrialRow]] = {}
    for trial in trials:
        groups.setdefault(json.dumps(_shared(study, trial.settings)), []).append(trial)
    rows = [_row(_shared(study, group[0].settings), group) for group in groups.values()]
    sign = -1 if study.figure.mode == "max" else 1
    return sorted(rows, key=lambda row: (row.mean is None, sign * (row.mean or 0.0)))


def _shared(study: StudyConfig, settings: Settings) -> dict[str, Value]:
    return {key: settings[key.split(",")[0].strip()] for key in varied_keys(study)}


def _row(shared: dict[str, Value], group: Sequence[TrialRow]) -> TableRow:
    figures = [trial.result.figure for trial in group if trial.result.figure is not None]
    return TableRow(
        settings=shared,
        mean=statistics.fmean(figures) if figures else None,
        std=statistics.stdev(figures) if len(figures) > 1 else None,
        done=len(figures),
        failed=len(group) - len(figures),
    )


def write_study(
    study: StudyConfig, trials: Sequence[TrialRow], out: Path, facts: Mapping[str, object]
) -> None:
    """Write study.json, study.md and study.svg.

    Args:
        study: what was asked.
        trials: all of them.
        out: folder of the study.
        facts: what else a reader must know: commit, versions, machine.
    """
    is_population = study.scheduler == "population"
    rows = tabulate(study, last_generation(trials) if is_population else trials)
    record = {
        "study": asdict(study),
        "table": [asdict(row) for row in rows],
        "trials": [asdict(trial) for trial in trials],
        **facts,
    }
    publish_text(json.dumps(record, indent=1) + "\n", out / RESULTS_FILE)
    told = format_population(study, trials) if is_population else format_table(study, rows)
    drawn = draw_population(study, trials) if is_population else draw(study, rows)
    publish_text(told, out / TABLE_FILE)
    publish_bytes(drawn, out / PLOT_FILE)


def format_table(study: StudyConfig, rows: Sequence[TableRow]) -> str:
    """Give the table as Markdown."""
    keys = varied_keys(study)
    over = f", mean and std over {', '.join(study.repeats)}" if study.repeats else ""
    lines = [
        f"# {study.name}",
        "",
        study.question,
        "",
        f"{study.figure.title}{over}.",
        "",
        f"| {' | '.join([*keys, study.figure.title, 'trials', 'failed'])} |",
        f"|{'---|' * (len(keys) + 3)}",
    ]
    for row in rows:
        cells = [str(row.settings[key]) for key in keys]
        lines.append(f"| {' | '.join([*cells, _told(row), str(row.done), str(row.failed)])} |")
    return "\n".join(lines) + "\n"


def _told(row: TableRow) -> str:
    if row.mean is None:
        return "-"
    return f"{row.mean:.4f}" + ("" if row.std is None else f" +- {row.std:.4f}")


def draw(study: StudyConfig, rows: Sequence[TableRow]) -> bytes:
    """Draw the figure over the first parameter, as SVG; a line for each of the others' values."""
    keys = list(varied_keys(study))
    drawing = Drawing(figsize=(7, 4), layout="constrained")
    axes = drawing.add_subplot()
    lines: dict[str, list[_Dot]] = {}
    for row in rows:
        if row.mean is not None:
            others = ", ".join(f"{key}={row.settings[key]}" for key in keys[1:])
            x = row.settings[keys[0]] if keys else ""
            lines.setdefault(others, []).append(_Dot(x, row.mean, row.std or 0.0))
    is_number = all(isinstance(dot.x, int | float) for line in lines.values() for dot in line)
    for name, line in lines.items():
        dots = sorted(line, key=lambda dot: dot.x) if is_number else line
        axes.errorbar(
            [dot.x if is_number else str(dot.x) for dot in dots],
            [dot.mean for dot in dots],
            yerr=[dot.std for dot in dots],
            marker="o",
            capsize=3,
            label=name or None,
        )
    axes.set_xlabel(keys[0] if keys else "")
    axes.set_ylabel(study.figure.title)
    axes.set_title(study.question, fontsize=10)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    buffer = BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
