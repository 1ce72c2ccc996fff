"""How does a run learn that a machine will be taken from it? It asks whoever runs its ranks."""

import logging
import time
from collections.abc import Callable

from picpoint.losses.gather import this_rank

logger = logging.getLogger(__name__)

# Clouds give notice of 30 s to 2 minutes.
ASK_EVERY_S = 5.0

Notice = Callable[[], frozenset[str]]
"""Names the machines of the run that will soon be taken; all ranks must ask together."""


def no_notice() -> frozenset[str]:
    """Say that no machine is about to be taken."""
    return frozenset()


class Departures:
    """Tells when machines are newly about to be taken, so that what they know is saved before."""

    def __init__(self, ask: Notice) -> None:
        """Ask so, from now on."""
        self._ask = ask
        self._told = frozenset[str]()
        self._asked = time.monotonic()

    def are_due(self) -> bool:
        """Whether it is time to ask again, by this rank's clock; all ranks obey the first one's."""
        return this_rank() == 0 and time.monotonic() - self._asked >= ASK_EVERY_S

    def are_new(self) -> bool:
        """Whether machines will be taken of which it was not said before; all ranks must ask."""
        new = self._ask() - self._told
        self._asked = time.monotonic()
        self._told |= new
        if new and this_rank() == 0:
            names = ", ".join(sorted(new))
            logger.warning("machines will be taken back: %s; saving a checkpoint now", names)
        return bool(new)
