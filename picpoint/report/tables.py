"""What is a table of a report? Cells with a text to read and a value to sort by, in three forms."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

Number = int | float
Value = Number | str | None

_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: to read.
        value: to sort by, and for programs; None where there is nothing, which sorts last.
        note: a remark in smaller letters.
    """

    text: str
    value: Value
    note: str = ""


NOTHING = Cell("\N{EN DASH}", None)


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        is_number: set to the right.
        is_long: text that may be broken into lines.
    """

    title: str
    is_number: bool = False
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        cells: one for each column.
        is_ours: a result of the runs that the report is of, among published ones.
    """

    cells: tuple[Cell, ...]
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table, which a reader can sort.

    Attributes:
        title: what it tells.
        columns: from left to right.
        rows: from top to bottom.
        note: what must be known to read it.
    """

    template: ClassVar[str] = "table.html"

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row.cells) == len(self.columns) for row in self.rows), self.title

    @property
    def tables(self) -> "tuple[Table, ...]":
        """Itself."""
        return (self,)


def table(
    title: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], note: str = ""
) -> Table:
    """Build a table whose rows are all alike."""
    return Table(title, tuple(columns), tuple(Row(tuple(cells)) for cells in rows), note)


def word(text: object, note: str = "") -> Cell:
    """Give a cell of text."""
    told = str(text)
    return Cell(told, told, note) if told else NOTHING


def number(value: Number | None, digits: int | None = None, note: str = "") -> Cell:
    """Give a cell of a number.

    Args:
        value: None or not finite where there is none.
        digits: after the point; None for as many as it takes, at most four that count.
        note: a remark.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if digits is None:
        is_whole = float(value).is_integer() and abs(value) < 1e15
        text = f"{value:,.0f}" if is_whole else f"{value:.4g}"
    else:
        text = f"{value:,.{digits}f}"
    return Cell(text, value, note)


def percent(share: Number | None, std: Number | None = None, note: str = "") -> Cell:
    """Give a cell of a share of 1, in per cent, with its deviation if there is one."""
    if share is None or not math.isfinite(share):
        return NOTHING
    spread = "" if std is None else f" {_PLUS_MINUS} {100 * std:.1f}"
    return Cell(f"{100 * share:.1f}{spread}", round(100 * share, 6), note)


def percent_difference(share: Number) -> Cell:
    """Give a cell of a difference of shares, in percentage points, with its sign."""
    return Cell(f"{100 * share:+.1f}".replace("-", _MINUS), round(100 * share, 6))


def to_markdown(table: Table) -> str:
    """Write a table as GitHub has them; what comes from data is no markup there."""
    lines = [
        f"**{escape_markdown(table.title)}**",
        "",
        _markdown_row([column.title for column in table.columns]),
        _markdown_row(["---:" if column.is_number else "---" for column in table.columns], False),
        *(_markdown_row([_with_note(cell) for cell in row.cells]) for row in table.rows),
    ]
    return "\n".join([*lines, "", *([escape_markdown(table.note), ""] if table.note else [])])


def to_json(table: Table) -> dict[str, object]:
    """Give a table as plain values; `texts` is what a reader sees."""
    return {
        "title": table.title,
        "columns": [column.title for column in table.columns],
        "rows": [[cell.value for cell in row.cells] for row in table.rows],
        "texts": [[_with_note(cell) for cell in row.cells] for row in table.rows],
        "note": table.note,
    }


def escape_markdown(text: str) -> str:
    """Make text that Markdown shows as it is."""
    for character in "\\|[]`*":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())


def _markdown_row(texts: Sequence[str], escaped: bool = True) -> str:
    cells = map(escape_markdown, texts) if escaped else texts
    return f"| {' | '.join(cells)} |"


def _with_note(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text
