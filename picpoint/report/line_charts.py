"""How do figures move while a run goes on? Curves, as a block of charts side by side."""

from dataclasses import dataclass
from typing import ClassVar

from picpoint.report.plots import CHART_LEFT, CHART_RIGHT, LineChart
from picpoint.report.tables import Table


@dataclass(frozen=True, slots=True)
class LineCharts:
    """Charts side by side."""

    template: ClassVar[str] = "line_charts.html"
    left: ClassVar[float] = CHART_LEFT
    right: ClassVar[float] = CHART_RIGHT

    charts: tuple[LineChart, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()
