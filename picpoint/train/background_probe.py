"""How is a run probed while it goes on? By a child process that is handed snapshots.

Training copies the point encoder's weights at the end of a step and goes on; it never waits for a
probe but for the last. A probe that is due while one is at work and another waits is left out, and
counted. One that fails, or whose process is killed, is told of and costs the run nothing.
"""

import contextlib
import dataclasses
import io
import json
import logging
import queue
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

from picpoint.train.checkpoint_writer import copied_to_cpu
from picpoint.train.log import open_log, positions
from picpoint.train.probe_child import ProbeFigures, serve
from picpoint.train.probe_shapes import ProbeShapes
from picpoint.train.settings import PretrainConfig

logger = logging.getLogger(__name__)

PROBE_FILE = "probes.jsonl"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """One line of the probes' log.

    Attributes:
        step: updates made when the snapshot was taken.
        samples_seen: the position of the run then.
        split: what was probed on.
        figures: what was found.
        num_left_out: probes left out since the run was (re)started.
    """

    step: int
    samples_seen: int
    split: str
    figures: ProbeFigures
    num_left_out: int

    def line(self) -> str:
        """Give it as a line of JSON, flat."""
        told = dataclasses.asdict(self)
        figures = told.pop("figures")
        return json.dumps(told | figures) + "\n"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    step: int
    samples_seen: int
    weights: Mapping[str, Tensor]


@contextlib.contextmanager
def open_probe(
    config: PretrainConfig, run_dir: Path, shapes: ProbeShapes | None, samples_seen: int
) -> Generator["BackgroundProbe | None"]:
    """Stand by to probe a run; leaving ends what is under way, unless it was waited for.

    Args:
        config: of the run.
        run_dir: where `probes.jsonl` is.
        shapes: to be probed on; None where this rank probes nothing.
        samples_seen: position of the run; lines beyond it go.
    """
    if shapes is None:
        yield None
        return
    with open_log(run_dir, 0, samples_seen, PROBE_FILE) as log:
        told = positions(run_dir / PROBE_FILE)
        probe = BackgroundProbe(config, shapes, log, told)
        try:
            yield probe
        finally:
            probe.close()


class BackgroundProbe:
    """Asks a child process about snapshots, from a thread of its own.

    Args:
        config: of the run.
        shapes: to be probed on.
        log: that reports go to.
        told: positions that the log has reports of.
    """

    def __init__(
        self, config: PretrainConfig, shapes: ProbeShapes, log: TextIO, told: frozenset[int]
    ) -> None:
        self._config, self._shapes, self._log, self._told = config, shapes, log, told
        self._waiting: queue.Queue[_Snapshot | None] = queue.Queue(maxsize=1)
        self._child: _Child | None = None
        self._closing = False
        self._num_left_out = 0
        self._thread = threading.Thread(target=self._serve, name="probe", daemon=True)
        self._thread.start()

    def offer(self, encoder: nn.Module, step: int, samples_seen: int) -> None:
        """Have a network probed as it is now, unless that was done before or one waits already.

        Args:
            encoder: the point encoder; copied.
            step: updates made so far.
            samples_seen: position of the run.
        """
        if samples_seen in self._told:
            return
        if self._waiting.full():
            self._leave_out(step)
            return
        weights = copied_to_cpu(encoder.state_dict())
        self._waiting.put(_Snapshot(step, samples_seen, weights))

    def _leave_out(self, step: int) -> None:
        self._num_left_out += 1
        if self._num_left_out == 1:
            logger.warning(
                "no probe of step %d: two before it are not done; raise probe.every or "
                "probe.threads, or lower probe.per_class",
                step,
            )

    def finish(
        self, encoder: nn.Module, step: int, samples_seen: int, is_enough: Callable[[], bool]
    ) -> None:
        """Have a network probed as it ended, and wait until all is told.

        Args:
            encoder: the point encoder.
            step: updates made.
            samples_seen: position of the run.
            is_enough: asked now and then whether to wait no longer.
        """
        last: list[_Snapshot | None] = [None]
        if samples_seen not in self._told:
            last.insert(0, _Snapshot(step, samples_seen, copied_to_cpu(encoder.state_dict())))
        while self._thread.is_alive() and not is_enough():
            if last and not self._waiting.full():
                self._waiting.put(last.pop(0))
            self._thread.join(_POLL_S)

    def close(self) -> None:
        """End at once; what was not told is probed when the run goes on from there."""
        self._closing = True
        with contextlib.suppress(queue.Empty):
            self._waiting.get_nowait()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        while self._thread.is_alive():
            if (child := self._child) is not None:
                child.kill()
            self._thread.join(_POLL_S)

    def _serve(self) -> None:
        # Ctrl-C is the command's business; a process inherits what its starter blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while (snapshot := self._waiting.get()) is not None and not self._closing:
                self._probe(snapshot)
        finally:
            if self._child is not None:
                self._child.kill()

    def _probe(self, snapshot: _Snapshot) -> None:
        try:
            self._child = self._child or _Child(self._config, self._shapes)
            figures = self._child.ask(snapshot.weights)
            self._tell(snapshot, figures)
        except _NoAnswerError as error:
            if not self._closing:
                logger.warning("no probe of step %d: %s", snapshot.step, error)
        except OSError as error:
            logger.warning("no probe of step %d: %s", snapshot.step, error)
        if self._child is not None and self._child.is_gone:
            self._child = None  # the next one gets another

    def _tell(self, snapshot: _Snapshot, figures: ProbeFigures) -> None:
        report = ProbeReport(
            step=snapshot.step,
            samples_seen=snapshot.samples_seen,
            split=self._shapes.split,
            figures=figures,
            num_left_out=self._num_left_out,
        )
        self._log.write(report.line())
        self._log.flush()


class _NoAnswerError(Exception):
    """A probe failed, or its process is gone."""


class _Child:
    """The process that answers; started at once."""

    def __init__(self, config: PretrainConfig, shapes: ProbeShapes) -> None:
        # Not forked: a rank has threads and perhaps a GPU.
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, config, shapes), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, weights: Mapping[str, Tensor]) -> ProbeFigures:
        """Have a snapshot probed.

        Raises:
            _NoAnswerError: it could not be.
        """
        content = io.BytesIO()
        torch.save(dict(weights), content)
        try:
            self._connection.send_bytes(content.getbuffer())
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            self._process.join()
            raise _NoAnswerError(
                f"its process ended (exit code {self._process.exitcode})"
            ) from error
        if "error" in answer:
            raise _NoAnswerError(answer["error"])
        return ProbeFigures(**answer)

    @property
    def is_gone(self) -> bool:
        """Whether it ended."""
        return self._process.exitcode is not None

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
