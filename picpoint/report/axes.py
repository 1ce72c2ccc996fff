"""Where along an axis does a value lie? Numbers, orders of magnitude, or names side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from picpoint.report.plots import Tick, format_count

# Larger over smaller: an axis with more than that is drawn in orders of magnitude.
_LOG_FROM = 20.0
# Between the frame and the first and last number along the bottom.
_MARGIN = 10.0

# A number, or the name of a choice.
Place = float | str


@dataclass(frozen=True, slots=True)
class Axis:
    """A map from values to places along an axis.

    Attributes:
        ticks: its marks.
        low: value at its start.
        high: at its end.
        start: place of `low`.
        end: place of `high`.
        is_log: in orders of magnitude.
        names: of values that are no numbers, side by side.
    """

    ticks: tuple[Tick, ...]
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    names: tuple[str, ...] = ()

    def __call__(self, value: Place) -> float:
        """Give the place of a value, to a tenth."""
        if isinstance(value, str):
            share = (self.names.index(value) + 0.5) / len(self.names)
        elif self.is_log:
            span = math.log(self.high / self.low)
            share = math.log(value / self.low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def axis_of(places: Sequence[Place], start: float, end: float) -> Axis:
    """Lay out an axis of numbers or of names, as its values are.

    Args:
        places: values.
        start: where it begins.
        end: where it ends.
    """
    if any(isinstance(place, str) for place in places):
        names = tuple(dict.fromkeys(str(place) for place in places))
        width = (end - start) / len(names)
        ticks = tuple(
            Tick(round(start + (place + 0.5) * width, 1), _shortened(name, width))
            for place, name in enumerate(names)
        )
        return Axis(ticks, 0.0, 1.0, start, end, names=names)
    numbers = [float(place) for place in places]
    is_log = min(numbers) > 0 and max(numbers) / min(numbers) > _LOG_FROM
    return number_axis(numbers, start + _MARGIN, end - _MARGIN, is_log)


def number_axis(values: Sequence[float], start: float, end: float, is_log: bool) -> Axis:
    """Lay out an axis of numbers, with some round ones as ticks."""
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
    axis = Axis((), low, high, start, end, is_log)
    told = tuple(Tick(axis(tick), _tick_label(tick)) for tick in ticks)
    return Axis(told, low, high, start, end, is_log)


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
