"""How does a training command go? Its ranks run, their log is shown, and Ctrl-C stops them."""

import concurrent.futures
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Protocol

from cluster.compose import ConfigError
from cluster.progress import ProgressLine
from cluster.record import plain
from cluster.runtime import RankedJob, run_on_local_processes, run_on_ray
from cluster.trackers import TrackerName, Trackers
from picpoint.train.background_probe import PROBE_FILE
from picpoint.train.log import LOG_FILE
from picpoint.train.stop import STOP_FILE


class TrackedJob(RankedJob, Protocol):
    """A training job whose figures may go elsewhere, too."""

    @property
    def trackers(self) -> tuple[TrackerName, ...]:
        """Where to."""
        ...


def train_to_the_end(
    job: TrackedJob,
    checkpoints: str,
    summarise: Callable[[Mapping[str, float]], str],
    resumed_at: int,
    summarise_probe: Callable[[Mapping[str, float]], str] = lambda report: "",
) -> None:
    """Run the ranks of a job and show their log, until the end or until Ctrl-C.

    Args:
        job: what runs, and where.
        checkpoints: folder or URL of its checkpoints, for messages.
        summarise: makes a line of progress of a line of the log.
        resumed_at: step that the run goes on from.
        summarise_probe: adds to that what a line of its probes says, where it has any.

    Raises:
        KeyboardInterrupt: the run was stopped; its checkpoint is written.
        Exception: what a rank raised.
    """
    out = Path(job.out)
    (out / STOP_FILE).unlink(missing_ok=True)
    run_workers = run_on_ray if job.runtime.name == "ray" else run_on_local_processes
    with (
        concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="runtime") as thread,
        _stop_on_interrupt(out / STOP_FILE),
        ProgressLine(job.command) as progress,
        Trackers(trackers_of(job), out, plain(job), resumed_at) as trackers,
    ):
        # In a thread of its own, because Ray Train would answer Ctrl-C by killing its workers.
        running = thread.submit(run_workers, job)
        log, probes = _follow(out / LOG_FILE), _follow(out / PROBE_FILE)
        is_done, summary, probed = False, "", ""
        while not is_done:
            is_done = not concurrent.futures.wait([running], timeout=0.2).not_done
            for line in next(log):
                report = json.loads(line)
                trackers.log(report)
                summary = summarise(report)
                progress.show(summary + probed)
            for line in next(probes):
                report = json.loads(line)
                trackers.log_probe(report)
                probed = summarise_probe(report)
                progress.show(summary + probed)
        running.result()
    if (out / STOP_FILE).exists():
        raise KeyboardInterrupt(
            f"stopped; its checkpoint is in {checkpoints}; the same command goes on"
        )


def trackers_of(job: TrackedJob) -> tuple[TrackerName, ...]:
    """Name the trackers of a job; on a cluster that it joins, Ray's metrics are always one.

    Raises:
        ConfigError: Ray's metrics are asked for where there is no Ray.
    """
    if job.runtime.name != "ray" and "ray" in job.trackers:
        raise ConfigError(
            "trackers=[ray]: figures go through the Ray cluster that the run is on, and "
            f"runtime={job.runtime.name} is on none; use runtime=ray, or leave the tracker out"
        )
    joins = job.runtime.name == "ray" and job.runtime.address != "local"
    return (*job.trackers, "ray") if joins and "ray" not in job.trackers else job.trackers


@contextlib.contextmanager
def _stop_on_interrupt(stop_file: Path) -> Generator[None]:
    """Turn Ctrl-C and SIGTERM into a request to save and end; a second Ctrl-C interrupts."""

    def ask(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop_file.touch()
        print("\nsaving a checkpoint; Ctrl-C again ends without it", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(path: Path) -> Iterator[list[str]]:
    """Give the lines that a log has gained since the last time, whole lines only."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        if path.exists():
            with path.open() as log:
                log.seek(min(position, path.stat().st_size))
                whole = [line for line in log.readlines() if line.endswith("\n")]
            position = min(position, path.stat().st_size) + sum(len(line) for line in whole)
            yield whole
        else:
            yield []
