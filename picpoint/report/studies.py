"""What did a study find? Its table, a plot over what varied, and why trials failed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picpoint.report.axes import Place
from picpoint.report.blocks import Block, Paragraph, Section
from picpoint.report.plane_chart import Dot, DotSeries, Mean, PlaneChart, plane_chart
from picpoint.report.tables import NOTHING, Cell, Column, Table, number, table, word

Setting = str | int | float | bool

# More combinations of the other settings are no lines: all trials are one cloud of dots.
_MOST_LINES = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        name: of its folder.
        settings: its own, by key.
        state: how it ended.
        figure: None where there is none.
        seconds: that it took.
        reason: of a failure.
        generation: of a population, from 1; 0 for other trials.
        parent: trial of a population that it goes on from; "" for none.
    """

    name: str
    settings: Mapping[str, Setting]
    state: str
    figure: float | None
    seconds: float
    reason: str
    generation: int = 0
    parent: str = ""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """Trials that differ in repeats alone.

    Attributes:
        settings: what they share, by key.
        mean: of their figures; None where all failed.
        std: between them; None for fewer than two.
        done: how many have a figure.
        failed: how many have none.
    """

    settings: Mapping[str, Setting]
    mean: float | None
    std: float | None
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Study:
    """A study and all its trials.

    Attributes:
        name: of the study.
        folder: that it came from.
        question: that it answers.
        figure: what a trial is judged by.
        keys: of what varied, without repeats.
        repeats: keys that trials are averaged over.
        rows: the table, best first; of a population those of the last generation.
        trials: all of them.
        commit: of the code that ran.
        lineage: of a population: names of the best member and all that it came from, these first.
    """

    name: str
    folder: str
    question: str
    figure: str
    keys: tuple[str, ...]
    repeats: tuple[str, ...]
    rows: tuple[StudyRow, ...]
    trials: tuple[Trial, ...]
    commit: str
    lineage: tuple[str, ...] = ()


def study_sections(studies: Sequence[Study]) -> list[Section]:
    """Lay out studies, each in a section of its own."""
    return [_section(study, place) for place, study in enumerate(studies)]


def _section(study: Study, place: int) -> Section:
    is_population = any(trial.generation for trial in study.trials)
    blocks = _of_population(study) if is_population else _of_search(study)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    if failed:
        blocks.append(_failures(failed, study))
    else:
        blocks.append(Paragraph("No trial failed."))
    over = f", mean and deviation over {', '.join(study.repeats)}" if study.repeats else ""
    if is_population:
        over = f", in {max(trial.generation for trial in study.trials)} generations"
    early = sum(trial.state == "stopped" for trial in study.trials)
    stopped = f", {early} of them ended early by the scheduler" if early else ""
    lead = (
        f"{study.question} {len(study.trials)} trials in {study.folder}{stopped}, judged by: "
        f"{study.figure}{over}. Commit {study.commit}."
    )
    anchor = "study" if place == 0 else f"study-{place + 1}"
    return Section(anchor, f"Study: {study.name}", lead, tuple(blocks))


def _of_search(study: Study) -> list[Block]:
    chart = sweep_chart(study)
    return [*([chart] if chart else []), _table_of(study)]


def _of_population(study: Study) -> list[Block]:
    """Show a population: its growth, what the best was trained with, and all members."""
    by_name = {trial.name: trial for trial in study.trials}
    line = [by_name[name] for name in study.lineage]
    chart = population_chart(study, line)
    told = [_members(f"{study.name}: the line of the best member", line, study)] if line else []
    everyone = _members(f"{study.name}: all members", study.trials, study)
    return [*([chart] if chart else []), *told, everyone]


def _members(title: str, trials: Sequence[Trial], study: Study) -> Table:
    columns = [
        Column("Generation", is_number=True),
        *(Column(_title(key)) for key in study.keys),
        Column("Figure", is_number=True),
        Column("Trial"),
        Column("Parent"),
    ]
    rows = [
        [
            number(trial.generation),
            *(_setting(_get(trial.settings, key)) for key in study.keys),
            number(trial.figure, 4),
            word(trial.name),
            word(trial.parent),
        ]
        for trial in trials
    ]
    return table(title, columns, rows, "A member goes on from the weights of its parent.")


def population_chart(study: Study, line: Sequence[Trial]) -> PlaneChart | None:
    """Draw the figures over the generations, and the line of the best; None where all failed.

    Args:
        study: of a population.
        line: the best member and all that it came from.
    """
    dots = tuple(
        Dot(float(trial.generation), trial.figure, f"{trial.figure:.4f}: {_told(trial)}")
        for trial in study.trials
        if trial.figure is not None
    )
    if not dots:
        return None
    means = tuple(
        Mean(float(trial.generation), trial.figure, 0.0, f"{trial.figure:.4f}: {_told(trial)}")
        for trial in line
        if trial.figure is not None
    )
    series = [DotSeries("members", 0, dots, is_faint=True)]
    series += [DotSeries("line of the best", 1, means=means)] if means else []
    best = f"; the best of the last has {means[-1].y:.4f}" if means else ""
    summary = f"{study.figure} over generations: {len(dots)} members{best}; the table has them all."
    return plane_chart(study.question, "generation", study.figure, series, summary)


def _told(trial: Trial) -> str:
    return ", ".join(f"{name}={value}" for name, value in trial.settings.items())


def _table_of(study: Study) -> Table:
    is_numeric = {
        key: all(_is_number(row.settings[key]) for row in study.rows) for key in study.keys
    }
    columns = [
        *(Column(_title(key), is_number=is_numeric[key]) for key in study.keys),
        Column("Mean", is_number=True),
        Column("Deviation", is_number=True),
        Column("Trials", is_number=True),
        Column("Failed", is_number=True),
    ]
    rows = [
        [
            *(_setting(row.settings[key]) for key in study.keys),
            number(row.mean, 4),
            number(row.std, 4),
            number(row.done),
            number(row.failed),
        ]
        for row in study.rows
    ]
    return table(f"{study.name}: {study.figure}", columns, rows)


def _failures(failed: Sequence[Trial], study: Study) -> Table:
    columns = [Column("Trial"), Column("Settings", is_long=True), Column("Reason", is_long=True)]
    rows = [
        [
            word(trial.name),
            word(_told(trial)),
            word(trial.reason),
        ]
        for trial in failed
    ]
    return table(f"{study.name}: trials that failed", columns, rows)


def sweep_chart(study: Study) -> PlaneChart | None:
    """Draw the figure over one setting, a line for each choice of the others; None without any.

    Over the first setting that is a number and varies, else over the first one.
    """
    trials = [trial for trial in study.trials if trial.figure is not None]
    rows = [row for row in study.rows if row.mean is not None]
    if not study.keys or not trials:
        return None
    x_key = next((key for key in study.keys if _is_axis(key, trials)), study.keys[0])
    is_number = _is_axis(x_key, trials)
    others = [key for key in study.keys if key != x_key]
    names = list(dict.fromkeys(_name(trial.settings, others) for trial in trials))
    are_lines = len(names) <= _MOST_LINES
    series: list[DotSeries] = []
    for hue, name in enumerate(names if are_lines else [""]):
        mine = [each for each in trials if not are_lines or _name(each.settings, others) == name]
        means = [row for row in rows if are_lines and _name(row.settings, others) == name]
        dots = tuple(_dot(trial, x_key, is_number) for trial in mine)
        drawn = tuple(_mean(row, x_key, is_number) for row in means)
        series.append(DotSeries(name, hue, dots, drawn, is_faint=are_lines))
    best = rows[0]
    told = ", ".join(f"{_title(key)} {best.settings[key]}" for key in study.keys)
    summary = (
        f"{study.figure} over {_title(x_key)}: {len(trials)} trials, the best mean "
        f"{best.mean:.4f} at {told}; the table has every mean."
    )
    return plane_chart(study.question, _title(x_key), study.figure, series, summary)


def _dot(trial: Trial, key: str, is_number: bool) -> Dot:
    assert trial.figure is not None
    told = f"{trial.figure:.4f}: {_told(trial)}"
    return Dot(_place(trial.settings, key, is_number), trial.figure, told)


def _mean(row: StudyRow, key: str, is_number: bool) -> Mean:
    assert row.mean is not None
    spread = "" if row.std is None else f" \N{PLUS-MINUS SIGN} {row.std:.4f}"
    told = f"mean {row.mean:.4f}{spread} of {row.done}"
    return Mean(_place(row.settings, key, is_number), row.mean, row.std or 0.0, told)


def _place(settings: Mapping[str, Setting], key: str, is_number: bool) -> Place:
    value = _get(settings, key)
    return float(value) if is_number else _named(value)


def _is_axis(key: str, trials: Sequence[Trial]) -> bool:
    values = [_get(trial.settings, key) for trial in trials]
    return all(map(_is_number, values)) and len(set(values)) > 1


def _is_number(value: Setting) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _get(settings: Mapping[str, Setting], key: str) -> Setting:
    """Give a setting; a key of several names gives the same value to each of them."""
    return settings[key] if key in settings else settings[key.split(",")[0].strip()]


def _name(settings: Mapping[str, Setting], keys: Sequence[str]) -> str:
    return ", ".join(f"{_title(key)} {_named(_get(settings, key))}" for key in keys)


def _named(value: Setting) -> str:
    return str(value) if value != "" else "none"


def _setting(value: Setting) -> Cell:
    if isinstance(value, bool):
        return word(json.dumps(value))
    if isinstance(value, int | float):
        return number(value)
    return word(value) if value else NOTHING


def _title(key: str) -> str:
    return key.split(",")[0].strip()
