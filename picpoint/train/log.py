"""What does a run tell of itself while it goes on? One JSON line per log step."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO, runtime_checkable

from picpoint.publish import publish_text
from picpoint.train.checkpoint import CheckpointError

LOG_FILE = "metrics.jsonl"


@runtime_checkable
class Report(Protocol):
    """A line of a log: a dataclass that says where the run stood."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def samples_seen(self) -> int:
        """The position of the run."""
        ...


@dataclass(frozen=True, slots=True)
class StepReport:
    """One line of the log; losses, accuracies and spread are of the step's global batch.

    Attributes:
        step: updates made so far.
        total_steps: of the whole run.
        samples_seen: the position of the run.
        loss: the objective.
        loss_local: its local term, before weighting.
        loss_pooled: its global term, before weighting.
        temperature: of the step.
        local_top1: local retrieval accuracy (point -> pixel), 0..1.
        local_top1_back: the same the other way round (pixel -> point).
        pooled_top1: global retrieval accuracy (shape -> picture), 0..1.
        pooled_top1_back: the same the other way round (picture -> shape).
        lr: learning rate of the step.
        grad_norm: of the step's gradient, before the update.
        alignment: mean squared distance of shapes to their pictures, 0..4.
        uniformity: of the shapes; 0 where all lie in one point, else below.
        effective_rank: directions that the shapes use; near 1 is a collapse.
        num_corrupt: slots left empty by corrupt samples since the run was (re)started.
        samples_per_s: over all ranks, since the run was (re)started.
        data_wait: share of that time in which this rank waited for a batch, 0..1.
        eta_s: time to the end at this pace.
    """

    step: int
    total_steps: int
    samples_seen: int
    loss: float
    loss_local: float
    loss_pooled: float
    temperature: float
    local_top1: float
    local_top1_back: float
    pooled_top1: float
    pooled_top1_back: float
    lr: float
    grad_norm: float
    alignment: float
    uniformity: float
    effective_rank: float
    num_corrupt: int
    samples_per_s: float
    data_wait: float
    eta_s: float


def write_report(log: TextIO, report: Report) -> None:
    """Append one report as a line of JSON."""
    log.write(json.dumps(dataclasses.asdict(report)) + "\n")
    log.flush()


@contextlib.contextmanager
def open_log(
    run_dir: Path, rank: int, samples_seen: int, name: str = LOG_FILE
) -> Generator[TextIO]:
    """Open a log for appending, without the lines that a restart takes back.

    Raises:
        CheckpointError: a line other than the last is broken.
    """
    if rank != 0:
        with io.StringIO() as nowhere:
            yield nowhere
        return
    path = run_dir / name
    stored = path.read_text() if path.exists() else ""
    publish_text("".join(f"{line}\n" for line in _kept(stored, samples_seen, path)), path)
    with path.open("a") as log:
        yield log


def _kept(stored: str, samples_seen: int, path: Path) -> Iterator[str]:
    """Give the lines up to a position; a kill may have torn the last one, which goes too."""
    lines = stored.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            position = json.loads(line)["samples_seen"]
        except (ValueError, TypeError) as error:
            if number == len(lines):
                return
            raise CheckpointError(
                f"{path}, line {number}: broken ({error}); remove the line and resume"
            ) from error
        if position <= samples_seen:
            yield line


def positions(path: Path) -> frozenset[int]:
    """Give the positions that an open log has lines of."""
    return frozenset(json.loads(line)["samples_seen"] for line in path.read_text().splitlines())
