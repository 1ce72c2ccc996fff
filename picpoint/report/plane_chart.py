"""Where do dots, lines and bars of a chart of two quantities go? Geometry only, as in plots.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from picpoint.report.axes import Axis, Place, axis_of, number_axis
from picpoint.report.plots import Tick, hue_of, marker_path
from picpoint.report.tables import Table

WIDTH, HEIGHT = 360.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 348.0, 10.0, 200.0
# Between the lines of labels, so that none is written over another.
_LINE, _LETTER = 9.5, 5.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One value.

    Attributes:
        x: where.
        y: how much.
        told: shown on hovering.
        label: written beside it; "" for none.
    """

    x: Place
    y: float
    told: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of several values.

    Attributes:
        x: where.
        y: how much.
        std: between them; 0 for one.
        told: shown on hovering.
    """

    x: Place
    y: float
    std: float
    told: str


@dataclass(frozen=True, slots=True)
class DotSeries:
    """Values that belong together.

    Attributes:
        name: for the key.
        hue: number of its colour and form.
        dots: single values.
        means: those of the dots, joined by a line where x is a number.
        is_faint: drawn to be looked past.
    """

    name: str
    hue: int
    dots: tuple[Dot, ...] = ()
    means: tuple[Mean, ...] = ()
    is_faint: bool = False


@dataclass(frozen=True, slots=True)
class DrawnMark:
    """A mark with what it says on hovering."""

    path: str
    told: str


@dataclass(frozen=True, slots=True)
class Label:
    """Words beside a mark."""

    x: float
    y: float
    anchor: str
    text: str

    @property
    def span(self) -> tuple[float, float]:
        """From where to where it reaches, about."""
        width = _LETTER * len(self.text)
        return (self.x, self.x + width) if self.anchor == "start" else (self.x - width, self.x)


@dataclass(frozen=True, slots=True)
class DrawnDots:
    """A series as paths.

    Attributes:
        name: for the key.
        hue: class of its colour.
        key: its mark for the key.
        dots: single values.
        means: means.
        bars: mean less and plus a deviation, as one path.
        line: that joins the means.
        is_faint: drawn to be looked past.
    """

    name: str
    hue: str
    key: str
    dots: tuple[DrawnMark, ...]
    means: tuple[DrawnMark, ...]
    bars: str
    line: str
    is_faint: bool


@dataclass(frozen=True, slots=True)
class PlaneChart:
    """A chart ready to draw.

    Attributes:
        title: what it shows.
        x_title: of the axis along the bottom.
        y_title: of the axis up the left side.
        summary: the same in words, for those who cannot see it.
        series: what is drawn.
        labels: words in the plane.
        x_ticks: along the bottom.
        y_ticks: up the left side.
    """

    template: ClassVar[str] = "plane_chart.html"
    width: ClassVar[float] = WIDTH
    height: ClassVar[float] = HEIGHT
    left: ClassVar[float] = _LEFT
    right: ClassVar[float] = _RIGHT
    bottom: ClassVar[float] = _BOTTOM

    title: str
    x_title: str
    y_title: str
    summary: str
    series: tuple[DrawnDots, ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """None: its values stand in a table of their own."""
        return ()


def plane_chart(
    title: str, x_title: str, y_title: str, series: Sequence[DotSeries], summary: str
) -> PlaneChart:
    """Lay out a chart; x is a number for all, or a name for all.

    Args:
        title: what it shows.
        x_title: what x is.
        y_title: what y is.
        series: at least one value in all.
        summary: it in words.
    """
    places = [each.x for one in series for each in (*one.dots, *one.means)]
    heights = [dot.y for one in series for dot in one.dots]
    heights += [
        mean.y + sign * mean.std for one in series for mean in one.means for sign in (-1, 1)
    ]
    assert places, f"{title}: nothing to draw"
    x_axis, y_axis = (
        axis_of(places, _LEFT, _RIGHT),
        number_axis(heights, _BOTTOM, _TOP, is_log=False),
    )
    is_number = not x_axis.names
    return PlaneChart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        summary=summary,
        series=tuple(_draw(one, x_axis, y_axis, joined=is_number) for one in series),
        labels=_labels([dot for one in series for dot in one.dots if dot.label], x_axis, y_axis),
        x_ticks=x_axis.ticks,
        y_ticks=y_axis.ticks,
    )


def _draw(series: DotSeries, x_axis: Axis, y_axis: Axis, joined: bool) -> DrawnDots:
    spots = [(x_axis(mean.x), y_axis(mean.y)) for mean in series.means]
    ends = [
        (x_axis(mean.x), y_axis(mean.y - mean.std), y_axis(mean.y + mean.std))
        for mean in series.means
        if mean.std > 0
    ]
    line = "M" + "L".join(f"{x} {y}" for x, y in sorted(spots)) if joined and spots else ""
    return DrawnDots(
        name=series.name,
        hue=hue_of(series.hue),
        key=marker_path(7.0, 7.0, 4.5, series.hue),
        dots=tuple(
            DrawnMark(marker_path(x_axis(dot.x), y_axis(dot.y), 3.2, series.hue), dot.told)
            for dot in series.dots
        ),
        means=tuple(
            DrawnMark(marker_path(x, y, 4.6, series.hue), mean.told)
            for (x, y), mean in zip(spots, series.means, strict=True)
        ),
        bars="".join(
            f"M{x} {low}V{high}M{x - 3:.1f} {low}h6M{x - 3:.1f} {high}h6" for x, low, high in ends
        ),
        line=line,
        is_faint=series.is_faint,
    )


def _labels(dots: Sequence[Dot], x_axis: Axis, y_axis: Axis) -> tuple[Label, ...]:
    """Write labels beside their dots, on the side with more room, none over another."""
    middle = (_LEFT + _RIGHT) / 2
    placed: list[Label] = []
    for dot in sorted(dots, key=lambda dot: -dot.y):
        x, y = x_axis(dot.x), y_axis(dot.y) + 3
        anchor, step = ("start", 6.0) if x < middle else ("end", -6.0)
        label = Label(round(x + step, 1), round(y, 1), anchor, dot.label)
        while any(_are_over_one_another(label, other) for other in placed):
            label = Label(label.x, round(label.y + 1.0, 1), anchor, dot.label)
        placed.append(label)
    return tuple(placed)


def _are_over_one_another(one: Label, other: Label) -> bool:
    (left, right), (other_left, other_right) = one.span, other.span
    return abs(one.y - other.y) < _LINE and left < other_right and other_left < right
