"""What does accuracy cost? Figures over parameters and over FLOPs, as charts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from picpoint.report.plane_chart import Dot, DotSeries, PlaneChart, plane_chart
from picpoint.report.tables import Table

# Ours has a colour; what others published is grey.
_OURS, _PUBLISHED = 0, -1


@dataclass(frozen=True, slots=True)
class CostDot:
    """A method's figure and its cost.

    Attributes:
        name: of the method.
        figure: per cent.
        parameters_m: millions; None where it is not known.
        gflops: likewise.
        is_ours: of this report's runs.
    """

    name: str
    figure: float
    parameters_m: float | None
    gflops: float | None
    is_ours: bool


@dataclass(frozen=True, slots=True)
class PlaneCharts:
    """Charts side by side."""

    template: ClassVar[str] = "plane_charts.html"

    charts: tuple[PlaneChart, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


def cost_charts(figure_title: str, dots: Sequence[CostDot]) -> PlaneCharts | None:
    """Draw figures over their costs; None where ours or others' are not known.

    Args:
        figure_title: what the figure is.
        dots: methods; those whose cost is not known are left out of a chart.
    """
    axes = [("millions of parameters", "parameters"), ("GFLOPs a cloud", "GFLOPs")]
    charts: list[PlaneChart] = []
    for title, name in axes:
        costs = [dot.parameters_m if name == "parameters" else dot.gflops for dot in dots]
        known = [(dot, cost) for dot, cost in zip(dots, costs, strict=True) if cost]
        if len(known) < 2 or not any(dot.is_ours for dot, _ in known):
            continue
        series = tuple(
            DotSeries(
                told,
                hue,
                tuple(
                    Dot(cost, dot.figure, _told(dot, cost, title), _short(dot.name))
                    for dot, cost in known
                    if dot.is_ours == (hue == _OURS)
                ),
            )
            for told, hue in (("this report", _OURS), ("published", _PUBLISHED))
        )
        ends = sorted(known, key=lambda pair: pair[0].figure)
        summary = (
            f"{figure_title} over {title} of {len(known)} methods, from "
            f"{_told(*ends[0], title)} to {_told(*ends[-1], title)}."
        )
        drawn = [each for each in series if each.dots]
        charts.append(
            plane_chart(
                f"{figure_title} over {name}",
                f"{title[0].upper()}{title[1:]}",
                f"{figure_title}, %",
                drawn,
                summary,
            )
        )
    return PlaneCharts(tuple(charts)) if charts else None


def _told(dot: CostDot, cost: float, title: str) -> str:
    return f"{dot.name}: {dot.figure:.1f} % at {cost:.3g} {title}"


def _short(name: str) -> str:
    return name.removeprefix("picpoint: ").replace(", from scratch", "")[:30]
