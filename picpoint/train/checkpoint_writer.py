"""How is a checkpoint written while training goes on? By one thread, one at a time."""

import logging
from collections.abc import Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch

from picpoint.train.checkpoint import Retention, save_checkpoint
from picpoint.train.claim import Claim

_LOG = logging.getLogger(__name__)

# The other ranks wait meanwhile, and give up after `runtime.timeout_s` (600 by default).
LONGEST_WAIT_S = 60.0


class CheckpointWriter:
    """Writes checkpoints in the background; a context manager, which waits for the last one.

    The state is copied when it is handed over; from then on training may change it. While one is
    being written no other is begun: who hands over too fast waits.

    Args:
        folder: of the checkpoints, or its URL.
        settings: of the run, flat.
        retention: which ones stay.
        claim: this process's on the folder; None where it is to save nothing, or nobody else can.
    """

    def __init__(
        self,
        folder: str,
        settings: Mapping[str, Any],
        retention: Retention,
        claim: Claim | None = None,
    ) -> None:
        self._folder, self._settings, self._retention = folder, settings, retention
        self._claim = claim
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[str] | None = None
        self._patience_s = LONGEST_WAIT_S

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy a state and have it written.

        Raises:
            CheckpointError, ClaimError: the one before could not be written.
        """
        self.wait()
        copy = copied_to_cpu(state)
        self._patience_s = LONGEST_WAIT_S
        self._pending = self._thread.submit(
            *(save_checkpoint, self._folder, step, copy),
            *(self._settings, self._retention, self._claim),
        )

    def wait_a_while(self) -> None:
        """Wait until what was handed over is written, but for a minute at most, and say so then.

        Raises:
            CheckpointError, ClaimError: it could not be.
        """
        if self._pending is None:
            return
        if futures.wait([self._pending], self._patience_s).done:
            self.wait()
        elif self._patience_s:
            self._patience_s = 0.0
            _LOG.warning(
                "the last checkpoint is not written after %.0f s; training goes on, and what is "
                "killed now costs more than checkpoint_every steps: is the storage slow?",
                LONGEST_WAIT_S,
            )

    def wait(self) -> None:
        """Wait until what was handed over is written.

        Raises:
            CheckpointError, ClaimError: it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def copied_to_cpu(state: Any) -> Any:  # noqa: ANN401  (a tree of tensors and plain values)
    """Copy every tensor of a nested state, so that nothing of it changes any more."""
    match state:
        case torch.Tensor():
            return state.detach().to("cpu", copy=True)
        case Mapping():
            return {key: copied_to_cpu(value) for key, value in state.items()}
        case list() | tuple():
            return type(state)(map(copied_to_cpu, state))
        case _:
            return state
