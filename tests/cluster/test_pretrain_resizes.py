"""A run on a cluster goes on with fewer machines, and on more when they come back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raylets import Raylets, raylets
from run_folders import steps_logged
from tiny_run import TINY_RUN

from picpoint.train.checkpoint import newest_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

DEADLINE_S = 400
Driver = subprocess.Popen[str]
ELASTIC = [
    *(*TINY_RUN, "runtime=ray", "runtime.use_gpu=false", "runtime.threads_per_worker=1"),
    *("runtime.min_workers=1", "runtime.max_workers=2", "runtime.resize_every_s=10"),
    *("global_batch=4", "ghost_batch=2", "epochs=100000", "log_every=1", "checkpoint_every=3"),
    "trackers=[]",
]


def wait_for_steps(cluster: Raylets, driver: Driver, out: Path, ranks: int, more: int = 8) -> float:
    """Wait until so many ranks have made some steps together; give how long it took."""
    started, deadline = time.monotonic(), time.monotonic() + DEADLINE_S
    seen: tuple[frozenset[int], int] | None = None
    while True:
        assert driver.poll() is None, driver.communicate()[1]
        found = len(cluster.pids(b"RayTrainWorker"))
        told = f"{found} ranks, not {ranks}; steps {steps_logged(out)[-3:]}"
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
        pids = frozenset(cluster.pids(b"ray::RayTrainWorker"))
        made = steps_logged(out)[-1:] or [0]
        if len(pids) != ranks:
            seen = None
        elif seen is None or seen[0] != pids:
            seen = (pids, made[0])
        elif made[0] >= seen[1] + more:
            return time.monotonic() - started


@contextmanager
def running(cluster: Raylets, shards: Path, out: Path, *more: str) -> Generator[Driver]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    driver = subprocess.Popen(
        [
            *(sys.executable, "-m", "cluster.app", "pretrain", f"data.shards={shards}"),
            *(f"out={out}", f"runtime.address={cluster.address}", *ELASTIC, *more),
        ],
        env=clean | cluster.access,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def stop(driver: Driver) -> str:
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 130, told
    return told


def test_a_run_loses_a_machine_goes_on_with_the_rest_and_grows_again(
    shard_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with raylets(1, 1) as cluster, running(cluster, shard_set, out) as driver:
        took_s = {"to start on 2": wait_for_steps(cluster, driver, out, ranks=2)}
        cluster.kill(1)
        before = steps_logged(out)[-1]
        took_s["to go on with 1"] = wait_for_steps(cluster, driver, out, ranks=1)
        assert steps_logged(out)[-1] > before
        cluster.add(1)
        took_s["to be 2 again"] = wait_for_steps(cluster, driver, out, ranks=2)
        assert " begun again from the newest checkpoint (1 of " in stop(driver)
        print({name: round(seconds, 1) for name, seconds in took_s.items()})
    assert steps_logged(out) == list(range(1, steps_logged(out)[-1] + 1))


def test_a_run_that_is_told_of_a_loss_saves_itself_before(shard_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    log = out / "metrics.jsonl"
    with (
        raylets(1, 1) as cluster,
        running(cluster, shard_set, out, "checkpoint_every=1000000") as driver,
    ):
        wait_for_steps(cluster, driver, out, ranks=2)
        assert newest_checkpoint(out / "checkpoints") == (None, ())
        cluster.give_notice(1, seconds=60)
        deadline = time.monotonic() + 60
        while (saved := newest_checkpoint(out / "checkpoints")[0]) is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        cluster.kill(1)
        step = saved.state["samples_seen"] // 4
        before = log.read_text().splitlines()[:step]
        wait_for_steps(cluster, driver, out, ranks=1)
        stop(driver)
    # Lines hold how fast it went: of steps that were made again they would differ.
    assert step > 0
    assert log.read_text().splitlines()[:step] == before
    assert steps_logged(out) == list(range(1, steps_logged(out)[-1] + 1))
    assert steps_logged(out)[-1] > step
