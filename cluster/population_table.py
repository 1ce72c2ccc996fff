"""What came of a population? The best member, what its line was trained with, and every member."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib as mpl

mpl.use("agg")
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from cluster.parameter import Value
from cluster.study import StudyConfig
from cluster.trial_row import TrialRow


def last_generation(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Give the members of the last generation that there is."""
    last = max(row.generation for row in rows)
    return [row for row in rows if row.generation == last]


def lineage(study: StudyConfig, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Give the best member of the last generation, after all that it came from; none if all failed.

    Members of earlier generations are no candidates, whatever they came to: their schedule had
    further to go.
    """
    sign = -1 if study.figure.mode == "max" else 1
    told = [row for row in last_generation(rows) if row.result.figure is not None]
    if not told:
        return []
    by_name = {row.trial: row for row in rows}
    line = [min(told, key=lambda row: sign * (row.result.figure or 0.0))]
    while line[0].parent:
        line.insert(0, by_name[line[0].parent])
    return line


def format_population(study: StudyConfig, rows: Sequence[TrialRow]) -> str:
    """Give the best member, its line and all members as Markdown."""
    line = lineage(study, rows)
    reached, config = max(row.generation for row in rows), study.population
    failed = sum(row.result.state == "failed" for row in rows)
    lines = [
        f"# {study.name}",
        "",
        study.question,
        "",
        f"{study.figure.title}. {reached} of {config.generations} generations of {config.size}: "
        f"{len(rows)} trainings, {failed} of them failed.",
        "",
    ]
    if line:
        best = f"{line[-1].trial}, {_figure(line[-1])}"
        told = f"Best of generation {reached}: {best}. Trained on the way with"
    else:
        told = f"All members of generation {reached} failed."
    lines += [told, "", *_table(study, line), "", "All members", "", *_table(study, rows)]
    return "\n".join(lines) + "\n"


def _table(study: StudyConfig, rows: Sequence[TrialRow]) -> list[str]:
    keys = [parameter.key for parameter in study.parameters]
    heads = ["generation", *keys, study.figure.title, "trial", "parent"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        settings = [_setting(row.settings, key) for key in keys]
        cells = [str(row.generation), *settings, _figure(row), row.trial, row.parent or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _setting(settings: Mapping[str, Value], key: str) -> str:
    value = settings[key.split(",")[0].strip()]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(row: TrialRow) -> str:
    return "failed" if row.result.figure is None else f"{row.result.figure:.4f}"


def draw_population(study: StudyConfig, rows: Sequence[TrialRow]) -> bytes:
    """Draw figures over generations, each joined to its parent's, and the line of the best."""
    drawing = Drawing(figsize=(7, 4), layout="constrained")
    axes = drawing.add_subplot()
    figures = {row.trial: row.result.figure for row in rows}
    height = {name: math.nan if told is None else told for name, told in figures.items()}
    for row in rows:
        place = [row.generation - 1, row.generation] if row.parent else [row.generation]
        heights = [height[row.parent], height[row.trial]] if row.parent else [height[row.trial]]
        axes.plot(place, heights, color="0.75", linewidth=0.8, marker="o", markersize=4)
    line = lineage(study, rows)
    if line:
        heights = [height[row.trial] for row in line]
        axes.plot([row.generation for row in line], heights, marker="o", label="line of the best")
        axes.legend(fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.set_ylabel(study.figure.title)
    axes.set_title(study.question, fontsize=10)
    buffer = BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
