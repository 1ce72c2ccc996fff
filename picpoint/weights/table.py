"""What became of each tensor when weights were taken over? One line for each, and their sums."""

from dataclasses import dataclass
from typing import Literal

Fate = Literal["used", "initialised", "left over", "refused"]


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one tensor.

    Attributes:
        fate: what became of it.
        ours: its name here, or nothing.
        theirs: its name in the file, or nothing.
        note: shape, or the reason.
    """

    fate: Fate
    ours: str
    theirs: str
    note: str


def format_lines(lines: list[Line]) -> str:
    """Print the table, and its sums."""
    rows = [f"{line.fate:11} {line.ours:48} {line.theirs:40} {line.note}" for line in lines]
    fates: tuple[Fate, ...] = ("used", "initialised", "left over", "refused")
    sums = [f"{sum(line.fate == fate for line in lines)} {fate}" for fate in fates]
    return "\n".join([*rows, ", ".join(sums)])
