"""Work spread over processes: nothing is lost, nothing fails in silence, nobody outlives it."""

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.fleet import FleetConfig, WorkerDiedError, run_tasks
from shards.errors import TransientStoreError

TWO = FleetConfig(max_workers=2)


def doubled(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def killed_once(marker: Path) -> str:
    """Dies the first time that it is asked."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def always_killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails_in_passing(counter: Path) -> int:
    """Fails three times, then tells how often it was asked."""
    with counter.open("a") as file:
        file.write("x")
    if (asked := counter.stat().st_size) < 4:
        raise TransientStoreError("the network")
    return asked


def wrong(number: int) -> int:
    raise ValueError(f"{number}: is wrong")


def sleeping(marker: Path) -> None:
    """Tell who is at work and sleep, unless the task is a quick one."""
    if marker.name != "quick":
        marker.write_text(str(os.getpid()))
        time.sleep(600)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_task_is_done_once_by_as_many_processes_as_asked() -> None:
    results = list(run_tasks(doubled, range(20), TWO))
    assert sorted(result for result, _ in results) == [2 * number for number in range(20)]
    processes = {pid for _, pid in results}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not any(map(is_alive, processes))


def test_what_a_killed_worker_was_at_is_done_by_another(tmp_path: Path) -> None:
    tasks = [tmp_path / f"task-{number}" for number in range(5)]
    assert sorted(run_tasks(killed_once, tasks, TWO)) == [task.name for task in tasks]


def test_a_task_that_kills_every_worker_is_given_up() -> None:
    with pytest.raises(WorkerDiedError, match="lost 10 workers"):
        list(run_tasks(always_killed, [1], TWO))


def test_a_fault_in_passing_is_tried_again_and_another_error_is_not(tmp_path: Path) -> None:
    assert list(run_tasks(fails_in_passing, [tmp_path / "counter"], TWO)) == [4]
    with pytest.raises(ValueError, match="3: is wrong"):
        list(run_tasks(wrong, [3], TWO))


def test_closing_ends_workers_that_are_at_work(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    results = run_tasks(sleeping, [sleeper, tmp_path / "quick"], TWO)
    next(results)  # the quick one's
    while not sleeper.exists() or not sleeper.read_text():
        time.sleep(0.05)
    results.close()
    assert not is_alive(int(sleeper.read_text()))


@pytest.mark.parametrize(
    "wrong_fleet",
    [
        {"max_workers": -1},
        {"max_workers": 1, "min_workers": 2},
        {"name": "ray"},
        {"cpus_per_worker": -1.0},
    ],
)
def test_numbers_that_do_not_go_together_are_refused(wrong_fleet: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fleet\."):
        FleetConfig(**wrong_fleet)  # type: ignore[arg-type]
