"""Where does independent work run? Processes of this machine, or tasks of a Ray cluster.

A task must be idempotent: the one that a killed worker was at is done again by another. Results
come in the order in which they are ready.
"""

import math
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import FrameType, TracebackType
from typing import Literal, TypeVar, cast

from cluster.cores import usable_cores
from picpoint.render.children import end_with_parent
from shards.errors import TransientStoreError

Task = TypeVar("Task")
Result = TypeVar("Result")

# A task that took this many workers with it, or met as many faults of the store, is given up.
_MAX_ATTEMPTS = 10
# How long a worker may take to clear up when it is asked to end.
_GRACE_S = 5.0


class WorkerDiedError(RuntimeError):
    """Workers were killed from outside again and again, most often for want of memory."""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """Where independent work runs.

    Attributes:
        name: `local` starts processes; `ray` sends tasks to a Ray cluster, whose autoscaler brings
            machines for those that wait and takes them away when none do.
        max_workers: tasks that run at once; 0 for one per core of this machine (`local` only).
        min_workers: workers that the cluster is asked to keep up from the start (`ray` only).
        cpus_per_worker: of the cluster, for each task (`ray` only).
        gpus_per_worker: of the cluster, for each task; a fraction shares a GPU (`ray` only).
        address: Ray cluster to join; `local` starts one that ends with the job.
    """

    name: Literal["local", "ray"] = "local"
    max_workers: int = 0
    min_workers: int = 0
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    address: str = "local"

    def __post_init__(self) -> None:
        if self.max_workers < 0 or not 0 <= self.min_workers <= self.max_workers:
            raise ValueError(
                f"fleet.min_workers={self.min_workers}, fleet.max_workers={self.max_workers}: both "
                "must be at least 0, and the first not above the second"
            )
        if self.name == "ray" and self.max_workers == 0:
            raise ValueError(
                "fleet.max_workers=0: a cluster may grow without end; say how many tasks may run "
                "at once"
            )
        gpus = self.gpus_per_worker
        is_share = 0 <= gpus <= 1 or (1 < gpus < math.inf and gpus == int(gpus))
        if not (0 <= self.cpus_per_worker < math.inf and is_share):
            raise ValueError(
                f"fleet.cpus_per_worker={self.cpus_per_worker}, fleet.gpus_per_worker={gpus}: must "
                "be 0 or more, and of GPUs a share of one or a whole number"
            )

    @property
    def num_workers(self) -> int:
        """How many tasks run at once."""
        return self.max_workers or usable_cores()


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], fleet: FleetConfig
) -> Generator[Result]:
    """Run a function on every task; yield the results as they come.

    Closing the generator, and any error, ends the workers at once.

    Args:
        work: a function of a module; runs in another process.
        tasks: its arguments; they and the results are pickled.
        fleet: where to run.

    Raises:
        WorkerDiedError: one task's workers were killed again and again.
        Exception: whatever `work` raises.
    """
    match fleet.name:
        case "local":
            yield from _on_this_machine(work, tasks, min(fleet.num_workers, len(tasks)))
        case "ray":
            yield from _on_ray(work, tasks, fleet)


class _GoneError(Exception):
    """A worker ended before it answered."""


class _Worker:
    """A process that does one task at a time."""

    def __init__(self, work: Callable[..., object]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work))
        self.process.start()
        theirs.close()

    def start(self, task: object) -> bool:
        """Hand over a task; False if the process is gone."""
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def result(self) -> object:
        """Give the result that is ready.

        Raises:
            _GoneError: the process is gone.
            Exception: what the work raised.
        """
        try:
            succeeded, result = self.connection.recv()
        except (EOFError, OSError) as error:
            raise _GoneError from error
        if not succeeded:
            raise result
        return result

    def close(self) -> None:
        """End the process, by force if it does not go by itself."""
        self.process.terminate()
        self.process.join(_GRACE_S)
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


class _Crew:
    """The workers of this machine; a context manager, which ends them."""

    def __init__(self, work: Callable[..., object], num_workers: int) -> None:
        self._work = work
        self.idle = [_Worker(work) for _ in range(num_workers)]
        self._living = set(self.idle)

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._living:
            worker.process.terminate()
        for worker in self._living:
            worker.close()

    def replace(self, worker: _Worker) -> None:
        """Take on an idle worker for one who is gone."""
        worker.close()
        self._living.discard(worker)
        self.idle.append(_Worker(self._work))
        self._living.add(self.idle[-1])


def _on_this_machine(
    work: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int
) -> Iterator[Result]:
    waiting = deque((task, 1) for task in tasks)
    busy: dict[Connection, tuple[_Worker, Task, int]] = {}
    with _Crew(work, num_workers) as crew:
        while waiting or busy:
            while waiting and crew.idle:
                worker, (task, attempt) = crew.idle.pop(), waiting.popleft()
                if worker.start(task):
                    busy[worker.connection] = (worker, task, attempt)
                else:
                    crew.replace(worker)
                    _try_again(waiting, task, attempt, _died(attempt), None)
            for connection in wait(list(busy)):
                worker, task, attempt = busy.pop(cast(Connection, connection))
                try:
                    result = worker.result()
                except _GoneError as error:
                    crew.replace(worker)
                    _try_again(waiting, task, attempt, _died(attempt), error)
                except TransientStoreError as error:
                    crew.idle.append(worker)
                    _try_again(waiting, task, attempt, error, None)
                else:
                    crew.idle.append(worker)
                    yield cast(Result, result)


def _try_again(
    waiting: deque[tuple[Task, int]],
    task: Task,
    attempt: int,
    failure: Exception,
    cause: Exception | None,
) -> None:
    """Put a task back in the queue, at its end, or give it up."""
    if attempt == _MAX_ATTEMPTS:
        raise failure from cause
    waiting.append((task, attempt + 1))


def _died(attempts: int) -> WorkerDiedError:
    return WorkerDiedError(
        f"a task lost {attempts} workers, killed from outside, probably for want of memory; run "
        "the same command again with fewer workers, or give each more memory"
    )


def _serve(connection: Connection, work: Callable[[object], object]) -> None:
    """Do tasks until nobody asks any more; runs in a worker process."""
    end_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    with suppress(EOFError):
        while True:
            task = connection.recv()
            try:
                answer = (True, work(task))
            except Exception as error:
                error.add_note(traceback.format_exc())  # what the parent could not know
                answer = (False, error)
            try:
                connection.send(answer)
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                connection.send((False, TypeError(f"{work.__name__}: cannot answer: {error}")))


def _leave(signum: int, frame: FrameType | None) -> None:
    """End, clearing up what was begun, which another request to end must not disturb."""
    del frame
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(1)


def _on_ray(
    work: Callable[[Task], Result], tasks: Sequence[Task], fleet: FleetConfig
) -> Iterator[Result]:
    import ray
    from ray.autoscaler.sdk import request_resources
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    share = {"CPU": fleet.cpus_per_worker, "GPU": fleet.gpus_per_worker}
    on_ray = ray.remote(
        num_cpus=fleet.cpus_per_worker,
        num_gpus=fleet.gpus_per_worker,
        max_retries=_MAX_ATTEMPTS - 1,
        retry_exceptions=[TransientStoreError],  # pyright: ignore[reportArgumentType]
    )(work)
    # Without it the memory monitor of Ray tries a task again without end.
    own = {"task_oom_retries": _MAX_ATTEMPTS - 1} if fleet.address == "local" else None
    with ray.init(
        address=fleet.address,
        _system_config=own,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    ):
        if fleet.min_workers:
            request_resources(bundles=[share] * fleet.min_workers)
        waiting = deque(tasks)
        running: list[ray.ObjectRef[Result]] = []
        try:
            while waiting or running:
                # No more than may run: what waits in the cluster is what its autoscaler sees.
                while waiting and len(running) < fleet.max_workers:
                    running.append(on_ray.remote(waiting.popleft()))
                ready, running = ray.wait(running, num_returns=1)
                yield ray.get(ready[0])
        except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
            raise _died(_MAX_ATTEMPTS) from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if fleet.min_workers:
                request_resources(bundles=[])
