"""What does a study's record hold of a trial?"""

from dataclasses import dataclass

from cluster.parameter import Value
from cluster.trial import TrialResult


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        trial: its name.
        settings: what varies.
        result: how it ended.
        generation: of a population, from 1; 0 for other trials.
        parent: trial of a population that it goes on from; "" for none.
    """

    trial: str
    settings: dict[str, Value]
    result: TrialResult
    generation: int = 0
    parent: str = ""
