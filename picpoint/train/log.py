"""What does a run tell of itself while it goes on? One JSON line per log step."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LOG_FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One line of the log; losses and accuracies are of the global batch."""

    step: int
    total_steps: int
    samples_seen: int
    loss: float
    loss_local: float
    loss_pooled: float
    local_top1: float
    pooled_top1: float
    lr: float
    grad_norm: float
    alignment: float
    effective_rank: float
    samples_per_s: float
    data_wait: float
    eta_s: float


def write_report(log: TextIO, report: StepReport) -> None:
    """Append one report as a line of JSON."""
    log.write(json.dumps(dataclasses.asdict(report)) + "\n")
    log.flush()


@contextlib.contextmanager
def open_log(run_dir: Path, rank: int, samples_seen: int) -> Generator[TextIO]:
    """Open the log for appending, without the lines that a restart takes back."""
    if rank != 0:
        with io.StringIO() as nowhere:
            yield nowhere
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOG_FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if json.loads(line)["samples_seen"] <= samples_seen]
    with path.open("w") as log:
        log.writelines(kept)
        log.flush()
        yield log
