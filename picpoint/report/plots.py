"""Where does each mark of a plot go? Geometry only; the template draws it and the theme colours it.

Plots are SVG inside the page: sharp at any size, readable by a screen reader, dark or light with
the reader's theme. Lengths here are units of the plot's own viewBox, (0, 0) at the top left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

# Where the template's line charts begin and end, in a viewBox of 320 x 200.
CHART_LEFT, CHART_RIGHT = 42.0, 312.0
_CHART_TOP, _CHART_BOTTOM = 8.0, 178.0
MAP_SIZE = 320
# Colours of the style sheet; further classes take them in turn, in other forms.
NUM_HUES = 10

_MAP_MARGIN = 14
# With fewer shapes, neighbourhoods say nothing and t-SNE has no perplexity to work with.
_MIN_FOR_TSNE = 12

LineStyle = Literal["accent", "ink", "muted"]


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over samples seen, one curve per seed."""

    name: str
    style: LineStyle
    curves: tuple[Float64[np.ndarray, "_ 2"], ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class DrawnSeries:
    """A series as SVG paths; gaps where values are not finite."""

    name: str
    style: LineStyle
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LineChart:
    """A chart ready to draw.

    Attributes:
        title: what it shows.
        summary: the same in words with its first and last values, for those who cannot see it.
        series: the curves.
        x_ticks: along the bottom.
        y_ticks: up the left side.
    """

    title: str
    summary: str
    series: tuple[DrawnSeries, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """One shape on a map.

    Attributes:
        path: its outline.
        hue: the template's class of its colour.
        held_out: whether pre-training never saw it.
        told: class and key, shown on hovering.
    """

    path: str
    hue: str
    held_out: bool
    told: str


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False) -> LineChart:
    """Lay out curves over samples seen.

    Args:
        title: what it shows.
        series: at least one.
        percent: values are shares of 1; the axis starts at 0 and is in per cent.
    """
    points = np.concatenate([curve for one in series for curve in one.curves] or [np.zeros((0, 2))])
    points = points[np.isfinite(points).all(axis=1)]
    x_values = _ticks(points[:, 0], at_least=(0.0, 1.0) if len(points) == 0 else (0.0,))
    y_values = _ticks(points[:, 1], at_least=(0.0, 0.01) if percent else ())
    x_scale = _Scale(x_values[0], max(x_values[-1], 1.0), CHART_LEFT, CHART_RIGHT)
    y_scale = _Scale(y_values[0], y_values[-1], _CHART_BOTTOM, _CHART_TOP)
    return LineChart(
        title=title,
        summary=_summary(title, series, percent=percent),
        series=tuple(
            DrawnSeries(one.name, one.style, tuple(_path(c, x_scale, y_scale) for c in one.curves))
            for one in series
        ),
        x_ticks=tuple(Tick(x_scale(x), format_count(x)) for x in x_values),
        y_ticks=tuple(Tick(y_scale(y), _value(y, percent=percent)) for y in y_values),
    )


def map_2d(features: Float[np.ndarray, "n F"]) -> Float64[np.ndarray, "n 2"]:
    """Lay shapes out in the plane so that like features lie together.

    t-SNE of the standardised features by cosine distance, from a PCA start and a fixed seed; PCA
    alone where there are too few shapes for it. It keeps neighbourhoods, not distances.
    """
    standardised = StandardScaler().fit_transform(features.astype(np.float64))
    if len(features) < _MIN_FOR_TSNE:
        return np.asarray(PCA(2, random_state=0).fit_transform(standardised))
    embedding = TSNE(
        perplexity=min(15.0, (len(features) - 1) / 3),
        metric="cosine",
        init="pca",
        random_state=0,
    )
    length = np.linalg.norm(standardised, axis=1, keepdims=True)
    return np.asarray(embedding.fit_transform(standardised / np.maximum(length, 1e-12)), np.float64)


def map_method(num_shapes: int) -> str:
    """Tell how `map_2d` lays so many shapes out, and what may be read from it."""
    if num_shapes < _MIN_FOR_TSNE:
        return "PCA"
    return "t-SNE; distances between groups mean nothing"


def marks(
    places: Float64[np.ndarray, "n 2"],
    labels: Int64[np.ndarray, " n"],
    held_out: Bool[np.ndarray, " n"],
    told: Sequence[str],
) -> tuple[Mark, ...]:
    """Turn places in the plane into marks; colour and form tell the class.

    Held-out shapes are larger and come last, so that they lie on top.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    # One scale for both axes: a map that stretches one would lie about directions.
    extent = max(float((high - low).max()), 1e-12)
    spots = MAP_SIZE / 2 + (places - (low + high) / 2) / extent * (MAP_SIZE - 2 * _MAP_MARGIN)
    drawn = []
    for row in map(int, np.argsort(held_out, kind="stable")):
        (x, y), label, unseen = spots[row].tolist(), int(labels[row]), bool(held_out[row])
        outline = marker_path(x, y, 5.5 if unseen else 4.0, label)
        drawn.append(Mark(outline, hue_of(label), unseen, told[row]))
    return tuple(drawn)


def hue_of(label: int) -> str:
    """Name the colour of a class, as the template's style sheet has it."""
    return "unlabelled" if label < 0 else f"hue{label % NUM_HUES}"


def marker_path(x: float, y: float, radius: float, label: int) -> str:
    """Outline a marker.

    Neighbouring classes differ in form too, for those who see few colours, and so do classes that
    share a colour.
    """
    match (label + label // NUM_HUES) % 4:
        case 0:
            r = radius
            return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
        case 1:
            corners = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
        case 2:
            corners = [(0, -1.2), (1.1, 0.85), (-1.1, 0.85)]
        case _:
            corners = [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)]
    return "M" + "L".join(f"{x + radius * a:.1f} {y + radius * b:.1f}" for a, b in corners) + "z"


def format_count(count: float) -> str:
    """Shorten a large count: 12000 to 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear map from values to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _ticks(
    values: Float64[np.ndarray, " n"], at_least: Sequence[float]
) -> Float64[np.ndarray, " t"]:
    reached = np.concatenate([values, at_least]) if len(at_least) else values
    low, high = (reached.min(), reached.max()) if len(reached) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.asarray(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def _path(curve: Float64[np.ndarray, "n 2"], x_scale: _Scale, y_scale: _Scale) -> str:
    """Draw a curve, broken where a value is not finite; a lone value is a dot, by its round cap."""
    spots: list[list[str]] = [[]]
    for x, y in curve.tolist():
        if math.isfinite(y):
            spots[-1].append(f"{x_scale(x)} {y_scale(y)}")
        elif spots[-1]:
            spots.append([])
    lines = ["M" + "L".join(line) + ("h0" if len(line) == 1 else "") for line in spots if line]
    return "".join(lines)


def _summary(title: str, series: Sequence[Series], *, percent: bool) -> str:
    parts = [
        f"{one.name} from {_value(curve[0, 1], percent=percent)} "
        f"to {_value(curve[-1, 1], percent=percent)}"
        for one in series
        for curve in one.curves[:1]
        if len(curve)
    ]
    return f"{title} over samples seen: {'; '.join(parts) or 'nothing logged'}."


def _value(value: float, *, percent: bool) -> str:
    if not math.isfinite(value):
        return "not finite"
    if percent:
        return f"{100 * value:.3g} %"
    if 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"
