"""How does a trial of a study run? Its commands, each in a process of its own, one after another.

TRIAL/trial.json       its settings
TRIAL/log.txt          what the commands said
TRIAL/result.json      how it ended: the figure, or the reason why there is none
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

from pydantic import TypeAdapter, ValidationError

from cluster.compose import ConfigError
from cluster.parameter import Settings
from cluster.study import StudyConfig, commands_of, read_figure
from picpoint.publish import publish_text

_TRIAL_FILE, _LOG_FILE, RESULT_FILE = "trial.json", "log.txt", "result.json"
_LOOK_EVERY_S = 0.5
# How a trial may have ended that is not run again.
ENDED = ("done", "stopped")

# The commands end with the process that runs the trial, and go on another time.
_ENTRY = (
    "import os, sys; from picpoint.render.children import end_with_parent; "
    "end_with_parent(int(sys.argv[1])); from cluster.app import main; sys.exit(main(sys.argv[2:]))"
)


class TrialLostError(RuntimeError):
    """A trial came to its end by no doing of its own, so that nothing is known of its settings."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        state: `done`, `failed`, or `stopped` early by the scheduler.
        figure: the last one told; None where there is none.
        seconds: that its last attempt took.
        reason: of a failure; "" for others.
    """

    state: Literal["done", "failed", "stopped"]
    figure: float | None
    seconds: float
    reason: str = ""


def run_trial(
    study: StudyConfig,
    settings: Settings,
    folder: Path,
    more: Sequence[str],
    report: Callable[[float], None],
    cores: int = 1,
) -> TrialResult:
    """Run the commands of a trial, or find how it ended before.

    Args:
        study: whose trial it is.
        settings: what is its own.
        folder: of the trial, absolute.
        more: overrides of every command that has a runtime.
        report: is told each figure as it comes.
        cores: that the commands may keep busy on their machine; another trial has the others.
    """
    before = load_result(folder)
    if before is not None and before.state in ENDED:
        for figure in read_figure(study.figure, str(folder)):
            report(figure)
        return before
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).unlink(missing_ok=True)
    publish_text(json.dumps(dict(settings), indent=1) + "\n", folder / _TRIAL_FILE)
    started = time.monotonic()
    try:
        return _run_commands(study, settings, folder, more, report, cores)
    except ConfigError as error:  # what the figure is read of has no such number
        seconds = time.monotonic() - started
        return keep_result(folder, TrialResult("failed", None, seconds, str(error)))


def _run_commands(
    study: StudyConfig,
    settings: Settings,
    folder: Path,
    more: Sequence[str],
    report: Callable[[float], None],
    cores: int,
) -> TrialResult:
    """Run the commands of a trial, and keep how it ended.

    Raises:
        ConfigError: its figure's file has no such number.
        TrialLostError: something killed a command.
    """
    started = time.monotonic()
    told = 0
    for command in commands_of(study, settings, str(folder)):
        where = list(more) if command[0] in ("pretrain", "finetune") else []
        with (folder / _LOG_FILE).open("a") as log:
            log.write(f"$ picpoint {' '.join([*command, *where])}\n")
            log.flush()
            process = _start([*command, *where], log, cores)
            try:
                while process.poll() is None:
                    time.sleep(_LOOK_EVERY_S)
                    told = _tell(study, folder, told, report)
            finally:
                process.kill()
                process.wait()
        if process.returncode < 0:  # not by its own doing; Ray ends it just before this process
            raise TrialLostError(f"signal {-process.returncode} ended a command of the trial")
        if process.returncode:
            reason = _last_line(folder / _LOG_FILE)
            result = TrialResult("failed", None, time.monotonic() - started, reason)
            return keep_result(folder, result)
    figures = read_figure(study.figure, str(folder))
    seconds = time.monotonic() - started
    if not figures:
        reason = f"{study.figure.file}: not there after the last command"
        return keep_result(folder, TrialResult("failed", None, seconds, reason))
    if not math.isfinite(figures[-1]):
        reason = f"{study.figure.title} is {figures[-1]} after the last command"
        return keep_result(folder, TrialResult("failed", None, seconds, reason))
    # Kept before the last figure is told: a scheduler that ends it for that ends what is done.
    result = keep_result(folder, TrialResult("done", figures[-1], seconds))
    _tell(study, folder, told, report)
    return result


def _start(command: Sequence[str], log: TextIO, cores: int) -> "subprocess.Popen[bytes]":
    """Start a command of picpoint in a process that ends with this one."""
    return subprocess.Popen(
        [sys.executable, "-c", _ENTRY, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": str(cores)},
    )


def _tell(study: StudyConfig, folder: Path, told: int, report: Callable[[float], None]) -> int:
    """Pass on the figures that are new; gives how many there are."""
    figures = read_figure(study.figure, str(folder))
    for figure in figures[told:]:
        report(figure)
    return len(figures)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"


def keep_result(folder: Path, result: TrialResult) -> TrialResult:
    """Write how a trial ended."""
    publish_text(json.dumps(asdict(result), indent=1) + "\n", folder / RESULT_FILE)
    return result


def load_result(folder: Path) -> TrialResult | None:
    """Read how a trial ended; None where it has not."""
    try:
        return TypeAdapter(TrialResult).validate_json((folder / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
