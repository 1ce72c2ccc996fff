"""Which classes are told right, and which for which? A table by class, and a grid of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from picpoint.report.blocks import Block, Details, Section
from picpoint.report.run_groups import Finetuning, RunGroup, group_runs
from picpoint.report.tables import NOTHING, Cell, Column, Table, number, percent, table, word

# More columns, and their numbers cannot be read.
_MOST_NUMBERED = 16
_CELL, _SMALL_CELL = 26.0, 12.0
_LETTER = 5.6
_NAME_LENGTH = 16


@dataclass(frozen=True, slots=True)
class GridCell:
    """One cell of a grid that is not empty.

    Attributes:
        x: its left side, in units of the grid's viewBox.
        y: its upper side.
        share: of its row, 0..1; how strongly it is coloured.
        is_right: on the diagonal.
        text: written in it; "" for none.
        told: shown on hovering.
    """

    x: float
    y: float
    share: float
    is_right: bool
    text: str
    told: str


@dataclass(frozen=True, slots=True)
class ConfusionGrid:
    """A confusion matrix ready to draw: a row for each true class, a column for each predicted.

    Attributes:
        title: whose it is.
        summary: in words, for those who cannot see it.
        names: of the classes, cut to the room that there is.
        cells: that are not empty.
        size: side of a cell.
        gutter: room for names, to the left and above.
    """

    template: ClassVar[str] = "confusion.html"

    title: str
    summary: str
    names: tuple[str, ...]
    cells: tuple[GridCell, ...]
    size: float
    gutter: float

    @property
    def side(self) -> float:
        """Side of the whole picture."""
        return self.gutter + self.size * len(self.names) + 2

    @property
    def tables(self) -> tuple[Table, ...]:
        """None: a table of classes stands beside it."""
        return ()


def class_sections(runs: Sequence[Finetuning]) -> list[Section]:
    """Lay out what became of each class; runs over seeds are counted together."""
    groups = [group for group in group_runs(runs) if group.result.confusion]
    if not groups:
        return []
    blocks: list[Block] = []
    for group in groups:
        names = names_of_confusion(group)
        what = "clouds" if group.result.task == "classify" else "points"
        grid = confusion_grid(group.title, names, group.confusion, what)
        details = Details(
            f"{_capital(what)} by true and predicted class: {group.title}",
            (grid,),
        )
        blocks += [_class_table(group, names, what), details]
    lead = (
        "After the last epoch, counted over all seeds. Recall is the share of a class that was "
        "told right, which benchmarks call its accuracy; precision is the share of what was told "
        "as it and was it."
    )
    return [Section("classes", "Classes", lead, tuple(blocks))]


def names_of_confusion(group: RunGroup) -> tuple[str, ...]:
    """Name the rows of a group's confusion matrix."""
    result = group.result
    is_of_clouds = result.task == "classify" or not result.part_names
    return result.class_names if is_of_clouds else result.part_names


def _class_table(group: RunGroup, names: Sequence[str], what: str) -> Table:
    counts = group.confusion
    told = [sum(row[column] for row in counts) for column in range(len(names))]
    columns = [
        Column("Class", is_long=True),
        Column(_capital(what), is_number=True),
        Column("Recall, %", is_number=True),
        Column("Precision, %", is_number=True),
        Column("IoU, %", is_number=True),
        Column("Most taken for", is_long=True),
    ]
    rows: list[list[Cell]] = []
    for place, (name, row) in enumerate(zip(names, counts, strict=True)):
        right, total = row[place], sum(row)
        rows.append(
            [
                word(name),
                number(total),
                percent(_share(right, total)),
                percent(_share(right, told[place])),
                percent(_share(right, total + told[place] - right)),
                _most_taken_for(place, row, names),
            ]
        )
    note = "" if what == "clouds" else "IoU of all points together, not the mean over shapes."
    return table(f"Classes: {group.title}", columns, rows, note)


def _most_taken_for(place: int, row: Sequence[int], names: Sequence[str]) -> Cell:
    wrong = [(count, -other) for other, count in enumerate(row) if other != place and count]
    if not wrong:
        return NOTHING
    count, other = max(wrong)
    return word(f"{names[-other]} ({100 * count / sum(row):.1f} %)")


def confusion_grid(
    title: str, names: Sequence[str], counts: Sequence[Sequence[int]], what: str
) -> ConfusionGrid:
    """Lay out a confusion matrix.

    Args:
        title: whose it is.
        names: of the classes.
        counts: a row for each true class, a column for each predicted one.
        what: is counted.
    """
    is_numbered = len(names) <= _MOST_NUMBERED
    size = _CELL if is_numbered else _SMALL_CELL
    shown = tuple(map(_cut, names))
    gutter = 10 + _LETTER * max(map(len, shown))
    cells = [
        _grid_cell(row, column, counts[row], names, (gutter, size), is_numbered, what)
        for row in range(len(names))
        for column in range(len(names))
        if counts[row][column]
    ]
    total, right = sum(map(sum, counts)), sum(counts[place][place] for place in range(len(names)))
    return ConfusionGrid(
        title=title,
        summary=f"Confusion matrix of {len(names)} classes: {right:,} of {total:,} {what} are on "
        "the diagonal; the table of classes has the figures.",
        names=shown,
        cells=tuple(cells),
        size=size,
        gutter=gutter,
    )


def _grid_cell(
    row: int,
    column: int,
    counts: Sequence[int],
    names: Sequence[str],
    frame: tuple[float, float],
    is_numbered: bool,
    what: str,
) -> GridCell:
    count, total = counts[column], sum(counts)
    share, (gutter, size) = count / total, frame
    return GridCell(
        x=gutter + column * size,
        y=gutter + row * size,
        share=round(share, 3),
        is_right=row == column,
        text=_short_count(count, share) if is_numbered else "",
        told=f"{names[row]}, told {names[column]}: {count:,} of {total:,} {what} ({share:.1%})",
    )


def _short_count(count: int, share: float) -> str:
    """Give a count if it is short, else its share in per cent."""
    return str(count) if count < 1000 else f"{100 * share:.0f}%"


def _cut(name: str) -> str:
    return (
        name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
