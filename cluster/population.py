"""Who of a population goes on, and with which settings? Population-based training, without a run.

A study of `scheduler=population` trains in generations: each member trains for one interval, from
the checkpoint of its parent. Those that did worst take over the weights of one that did best, and
its settings, moved a little; the others go on as they are (arXiv:1711.09846, truncation selection).

Why not Ray Tune's PopulationBasedTraining (ray 2.60, `synch=True`): it draws from the global
generator; it changes the settings of a trial in place, so that no hash of them names it; who is
whose parent it knows in memory alone, and in Tune's snapshot of the experiment, which this project
does not restore from; it replaces no member that failed; and, as its source reads, one that fails
when the others have come to the interval's end leaves them paused: only a result wakes them.
Here a generation is a set of plain trials, which Tune runs as it does all others, and the next one
a pure function of (the study, the figures): whoever begins again comes to the same population and
finds what is trained. The price: members wait for the slowest of their generation, and processes
start anew for each interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cluster.parameter import Parameter, Settings, Value, draw, spread


@dataclass(frozen=True, slots=True)
class PopulationConfig:
    """How a population is bred.

    Attributes:
        size: members of a generation.
        generations: intervals of training, alike, that make the whole run; `pretrain.epochs` is
            that of all of them, and so is the schedule of the rate.
        quantile: share of a generation that is replaced, and share that it is replaced by.
        factors: one of which multiplies a number that is moved. Here 0.8 and its inverse (in the
            paper 0.8 and 1.2), so that they lead nowhere by themselves.
        resample: probability that a setting is drawn anew from its range or values instead.
    """

    size: int = 8
    generations: int = 10
    quantile: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)
    resample: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 2 or self.generations < 2:
            raise ValueError(
                f"study.population: size={self.size}, generations={self.generations}: must be at "
                "least 2 and 2; for trials that do not learn of each other set study.scheduler=none"
            )
        if not 0 < self.quantile <= 0.5:
            raise ValueError(
                f"study.population.quantile={self.quantile}: must be above 0 and at most 0.5, the "
                "share that is replaced by as many"
            )
        if not self.factors or any(not (0 < each < math.inf) or each == 1 for each in self.factors):
            raise ValueError(
                f"study.population.factors={list(self.factors)}: must be numbers above 0 other "
                "than 1; [0.8, 1.25] is the default"
            )
        if not 0 <= self.resample <= 1:
            raise ValueError(
                f"study.population.resample={self.resample}: must be a probability, 0 to 1"
            )


def choose_parents(
    figures: Sequence[float | None],
    mode: Literal["max", "min"],
    quantile: float,
    dice: Sequence[np.random.Generator],
) -> list[int]:
    """Choose whose checkpoint each place of the next generation goes on from.

    Of members that are as good, the one of the lower place comes first. Nobody gives way to one
    that is not better.

    Args:
        figures: of each place; None, or no number, where its member failed.
        mode: whether more is better.
        quantile: share of the places that is replaced, and share of those that replace them;
            rounded up, and at most half. Who failed is replaced in any case, and counts as worst.
        dice: one for each place.

    Returns:
        For each place, the place of its parent: its own, where its member goes on. Empty where all
        have failed.
    """
    sign = 1 if mode == "max" else -1
    worth = [
        sign * figure if figure is not None and math.isfinite(figure) else -math.inf
        for figure in figures
    ]
    best_first = sorted(range(len(worth)), key=lambda place: (-worth[place], place))
    alive = [place for place in best_first if worth[place] > -math.inf]
    if not alive:
        return []
    count = min(math.ceil(len(worth) * quantile), len(worth) // 2)
    donors = alive[:count]
    replaced = {*best_first[len(worth) - count :], *(set(best_first) - set(alive))}
    parents: list[int] = []
    for place in range(len(worth)):
        better = [donor for donor in donors if worth[donor] > worth[place]]
        if place in replaced and better:
            parents.append(better[int(dice[place].integers(len(better)))])
        else:
            parents.append(place)
    return parents


def perturb(
    settings: Settings,
    parameters: Sequence[Parameter],
    config: PopulationConfig,
    dice: np.random.Generator,
) -> dict[str, Value]:
    """Move each setting a little, or draw it anew; it stays in its range.

    A number of a range is multiplied by one of the factors; of values that are listed, the next
    one of the list is taken, up or down.

    Args:
        settings: of the parent.
        parameters: what varies.
        config: by how much, and how often anew.
        dice: what is drawn from.
    """
    moved = [_moved(each, settings[each.keys[0]], config, dice) for each in parameters]
    return spread(parameters, moved)


def _moved(
    parameter: Parameter, value: Value, config: PopulationConfig, dice: np.random.Generator
) -> Value:
    if dice.random() < config.resample:
        return draw(parameter, dice)
    if parameter.values:
        step = int(dice.integers(2)) * 2 - 1
        place = parameter.values.index(value) + step
        return parameter.values[min(max(place, 0), len(parameter.values) - 1)]
    low, high = parameter.bounds
    factor = config.factors[int(dice.integers(len(config.factors)))]
    bounded = min(max(float(value) * factor, low), high)
    return round(bounded) if parameter.is_whole else float(bounded)
