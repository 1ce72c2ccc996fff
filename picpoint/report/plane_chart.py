"""Where do dots, lines and bars of a chart of two quantities go? Geometry only, as in plots.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from picpoint.report.plots import Tick, format_count, hue_of, marker_path
from picpoint.report.tables import Table

WIDTH, HEIGHT = 360.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 348.0, 10.0, 200.0
# Between the lines of labels, so that none is written over another.
_LINE, _LETTER = 9.5, 5.0
# Between the frame and the first and last value along the bottom.
_MARGIN = 10.0
# Larger over smaller: an axis with more than that is drawn in orders of magnitude.
_LOG_FROM = 20.0

# A number, or the name of a choice.
Place = float | str


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


@dataclass(frozen=True, slots=True)
class _Axis:
    """A map from values to places along an axis, and its ticks."""

    ticks: tuple[Tick, ...]
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    names: tuple[str, ...] = ()

    def __call__(self, value: Place) -> float:
        if isinstance(value, str):
            share = (self.names.index(value) + 0.5) / len(self.names)
        elif self.is_log:
            span = math.log(self.high / self.low)
            share = math.log(value / self.low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


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
    x_axis, y_axis = _x_axis(places), _number_axis(heights, _BOTTOM, _TOP, is_log=False)
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


def _draw(series: DotSeries, x_axis: _Axis, y_axis: _Axis, joined: bool) -> DrawnDots:
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


def _labels(dots: Sequence[Dot], x_axis: _Axis, y_axis: _Axis) -> tuple[Label, ...]:
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


def _x_axis(places: Sequence[Place]) -> _Axis:
    if any(isinstance(place, str) for place in places):
        names = tuple(dict.fromkeys(str(place) for place in places))
        width = (_RIGHT - _LEFT) / len(names)
        ticks = tuple(
            Tick(round(_LEFT + (place + 0.5) * width, 1), _shortened(name, width))
            for place, name in enumerate(names)
        )
        return _Axis(ticks, 0.0, 1.0, _LEFT, _RIGHT, names=names)
    numbers = [float(place) for place in places]
    is_log = min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_FROM
    return _number_axis(numbers, _LEFT + _MARGIN, _RIGHT - _MARGIN, is_log)


def _number_axis(values: Sequence[float], start: float, end: float, is_log: bool) -> _Axis:
    low, high = min(values), max(values)
    if is_log:
        low, high = low / 1.3, high * 1.3
        ticks = _log_ticks(low, high)
    else:
        if low == high:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
        ticks = np.asarray(locator.tick_values(low, high)).tolist()
        low, high = ticks[0], ticks[-1]
    axis = _Axis((), low, high, start, end, is_log)
    told = tuple(Tick(axis(tick), _tick_label(tick)) for tick in ticks)
    return _Axis(told, low, high, start, end, is_log)


def _log_ticks(low: float, high: float) -> list[float]:
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = LogLocator(base=10, subs=subs).tick_values(low, high)
        inside = [float(tick) for tick in found if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return inside or [low, high]


def _tick_label(value: float) -> str:
    value = float(f"{value:.6g}")
    return format_count(value) if abs(value) >= 1000 or value == 0 else f"{value:g}"


def _shortened(name: str, width: float) -> str:
    """Cut a name to what fits under its place."""
    most = max(4, int(width / 5.2))
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
