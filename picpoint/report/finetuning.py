"""What came of fine-tuning? Results over seeds, their controls from scratch, and curves."""

from collections.abc import Sequence

import numpy as np

from picpoint.report.blocks import Block, Section
from picpoint.report.line_charts import LineCharts
from picpoint.report.plots import LineChart, LineStyle, Series, line_chart
from picpoint.report.run_groups import Finetuning, RunGroup, group_controls, group_runs
from picpoint.report.tables import (
    NOTHING,
    Cell,
    Column,
    Table,
    number,
    percent,
    percent_difference,
    table,
    word,
)

FIGURE_TITLES = {
    "accuracy": "Accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "instance_miou": "Instance mIoU",
    "class_miou": "Class mIoU",
    "instance_miou_of_all_parts": "Instance mIoU over all parts",
    "class_miou_of_all_parts": "Class mIoU over all parts",
    "point_accuracy": "Point accuracy",
    "mean_iou": "mIoU",
    "miou": "mIoU",
    "overall_accuracy": "Overall accuracy",
}
_VOTED = "_voted"


def figure_title(name: str) -> str:
    """Say a figure's name in words."""
    plain = name.removesuffix(_VOTED)
    title = FIGURE_TITLES.get(plain, plain.replace("_", " "))
    return f"{title}, voted" if name.endswith(_VOTED) else title


def finetuning_sections(runs: Sequence[Finetuning]) -> list[Section]:
    """Lay out fine-tuning runs; none gives no section."""
    if not runs:
        return []
    groups = group_runs(runs)
    tasks = list(dict.fromkeys(group.result.task for group in groups))
    of_task = [[group for group in groups if group.result.task == task] for task in tasks]
    blocks: list[Block] = [_results_table(groups) for groups in of_task]
    blocks.append(_control_table(groups))
    blocks.append(LineCharts(tuple(_chart(groups) for groups in of_task)))
    lead = (
        "Figures are of the last epoch, in per cent, mean and standard deviation over seeds. The "
        "best epoch is chosen by the clouds it is measured on, so it is no result: it stands "
        "here because others print theirs."
    )
    return [Section("finetuning", "Fine-tuning", lead, tuple(blocks))]


def _results_table(groups: Sequence[RunGroup]) -> Table:
    task = groups[0].result.task
    names = list(
        dict.fromkeys(name for group in groups for run in group.runs for name in run.result.last)
    )
    main = groups[0].main_figure
    columns = [
        Column("Encoder", is_long=True),
        Column("Begins"),
        Column("Data set"),
        Column("Seeds", is_number=True),
        *(Column(figure_title(name), is_number=True) for name in names),
        Column(f"Best {figure_title(main)}", is_number=True),
        Column("Measured on"),
        Column("Clouds trained on", is_number=True),
        Column("Measured", is_number=True),
        Column("M parameters", is_number=True),
        Column("Commit"),
    ]
    return table(f"Results of task {task}", columns, [_result_row(each, names) for each in groups])


def _result_row(group: RunGroup, names: Sequence[str]) -> list[Cell]:
    result, best = group.result, group.best(group.main_figure)
    settings = result.settings
    points, votes = settings.get("data.num_points", "?"), settings.get("votes", 0)
    figures = [group.figure(name) for name in names]
    return [
        word(group.encoder, group.names),
        word(group.beginning, result.weights),
        word(result.dataset, f"{points} points"),
        number(len(group.runs)),
        *(percent(each.mean, each.std) for each in figures),
        percent(best.mean, best.std, f"of {result.num_evaluations}"),
        word(result.evaluated_on, _counted(votes, "vote") if votes else ""),
        number(result.num_train),
        number(result.num_evaluated),
        number(result.parameters / 1e6 if result.parameters else None),
        word(", ".join(dict.fromkeys(run.commit for run in group.runs))),
    ]


def _control_table(groups: Sequence[RunGroup]) -> Table:
    """Put what began from pre-trained weights beside the same from scratch."""
    columns = [
        Column("Task"),
        Column("Data set"),
        Column("Encoder", is_long=True),
        Column("Figure"),
        Column("Pre-trained", is_number=True),
        Column("From scratch", is_number=True),
        Column("Difference", is_number=True),
    ]
    rows: list[list[Cell]] = []
    for alike in group_controls(groups):
        controls = [group for group in alike if not group.result.weights]
        begun = [group for group in alike if group.result.weights]
        rows += [_control_row(group, controls) for group in begun or [None]]
    note = "A control has the same settings but for the weights that it begins from."
    return table("Pre-trained beside from scratch", columns, rows, note)


def _control_row(group: RunGroup | None, controls: Sequence[RunGroup]) -> list[Cell]:
    shown = group or controls[0]
    name = shown.main_figure
    told = [_figure_or_not_run(each, name) for each in (group, controls[0] if controls else None)]
    difference = NOTHING
    if group and controls:
        mine, other = group.figure(name).mean, controls[0].figure(name).mean
        if mine is not None and other is not None:
            difference = percent_difference(mine - other)
    begins = shown.beginning if group else ""
    return [
        word(shown.result.task),
        word(shown.result.dataset),
        word(shown.encoder, begins),
        word(figure_title(name)),
        *told,
        difference,
    ]


def _figure_or_not_run(group: RunGroup | None, name: str) -> Cell:
    if group is None:
        return Cell("not run", None)
    figure, count = group.figure(name), len(group.runs)
    return percent(figure.mean, figure.std, _counted(count, "seed"))


def _chart(groups: Sequence[RunGroup]) -> LineChart:
    """Draw the main figure over samples seen, from scratch and pre-trained apart."""
    main, task = groups[0].main_figure, groups[0].result.task
    styles: list[tuple[str, LineStyle]] = [("pre-trained", "accent"), ("from scratch", "ink")]
    series = [
        Series(
            name,
            style,
            tuple(
                np.array(
                    [(each.samples_seen, each.figures[main]) for each in run.evaluations],
                    dtype=np.float64,
                ).reshape(-1, 2)
                for group in groups
                if bool(group.result.weights) == (name == "pre-trained")
                for run in group.runs
            ),
        )
        for name, style in styles
    ]
    drawn = [each for each in series if each.curves]
    return line_chart(f"{figure_title(main)}, task {task}", drawn, percent=True)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"
