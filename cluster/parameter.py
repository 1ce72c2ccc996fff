"""What varies in a study, and how is it drawn?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Value = str | int | float | bool
# Overrides, as COMMAND.KEY -> value.
Settings = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting that varies.

    Attributes:
        key: COMMAND.KEY, or several of them apart by commas, which take the same value.
        values: to choose from.
        low: instead of values, for `random` and `optuna`: the least number.
        high: the largest.
        log: draw evenly over orders of magnitude.
    """

    key: str
    values: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @property
    def keys(self) -> list[str]:
        """Each key of its own."""
        return [single.strip() for single in self.key.split(",")]

    @property
    def bounds(self) -> tuple[int | float, int | float]:
        """The range that is drawn from."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether its range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def draw(parameter: Parameter, dice: np.random.Generator) -> Value:
    """Draw a value: one of those named, or any of the range."""
    if parameter.values:
        return parameter.values[int(dice.integers(len(parameter.values)))]
    low, high = parameter.bounds
    if parameter.log:
        drawn = float(np.exp(dice.uniform(np.log(low), np.log(high))))
    else:
        drawn = float(dice.uniform(low, high))
    return round(drawn) if parameter.is_whole else drawn


def spread(parameters: Sequence[Parameter], values: Iterable[Value]) -> dict[str, Value]:
    """Give the settings of a trial: of each key its own value."""
    pairs = zip(parameters, values, strict=True)
    return {key: value for parameter, value in pairs for key in parameter.keys}
