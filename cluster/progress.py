"""One line that tells how far a job is: rewritten on a terminal, now and then a line elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

_PLAIN_INTERVAL_S = 10.0


class ProgressLine:
    """A live line on standard error; the last state always stays readable."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._live = sys.stderr.isatty()
        self._started = time.perf_counter()
        self._printed_s = -_PLAIN_INTERVAL_S
        self._text = ""
        self._unprinted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live and self._text:
            print(file=sys.stderr)
        elif self._unprinted:
            print(self._text, file=sys.stderr, flush=True)

    def show(self, state: str) -> None:
        """Show a state of the job."""
        now_s = time.perf_counter() - self._started
        self._text = f"{self._job:>9} {now_s:6.1f} s  {state}"
        if self._live:
            print(f"\r\x1b[2K{self._text}", end="", file=sys.stderr, flush=True)
        elif now_s - self._printed_s >= _PLAIN_INTERVAL_S:
            print(self._text, file=sys.stderr, flush=True)
            self._printed_s, self._unprinted = now_s, False
        else:
            self._unprinted = True
