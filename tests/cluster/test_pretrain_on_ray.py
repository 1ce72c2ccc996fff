"""On Ray Train as on one machine: lost ranks are begun anew, wrong settings end the run at once."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import digest_of_weights, steps_logged
from tiny_run import TINY_RUN

from cluster.app import main
from cluster.exit_codes import exit_code, would_fail_again
from cluster.local_ranks import RankDiedError
from cluster.ray_ranks import scaling_of, told_plainly
from cluster.runtime import RuntimeConfig
from picpoint.encoders.image_weights import MissingWeightsError

ON_RAY = [
    *TINY_RUN,
    *("runtime=ray", "global_batch=4", "ghost_batch=2", "log_every=1", "checkpoint_every=3"),
    *("runtime.threads_per_worker=1", "runtime.min_workers=1", "runtime.max_workers=2"),
]
TWO_WORKERS = ["runtime.num_workers=2", "runtime.min_workers=0", "runtime.max_workers=0"]
NUM_KILLS = 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"min_workers": 3, "max_workers": 2}, "runtime.min_workers=3"),
        ({"max_workers": 2}, "give both"),
        ({"min_workers": 2}, "give both"),
        ({"num_workers": 0}, "runtime.num_workers=0"),
        ({"min_workers": 1, "max_workers": 2, "name": "local"}, "use runtime.num_workers"),
    ],
)
def test_numbers_of_ranks_that_cannot_be_are_refused(changes, told):
    with pytest.raises(ValueError, match=told) as raised:
        RuntimeConfig(**{"name": "ray", **changes})
    assert "\n" not in str(raised.value)


@pytest.mark.ray
def test_workers_are_a_number_or_a_range():
    assert scaling_of(RuntimeConfig("ray", 3), use_gpu=False).num_workers == 3
    elastic = RuntimeConfig("ray", min_workers=2, max_workers=5)
    assert scaling_of(elastic, use_gpu=False).num_workers == (2, 5)
    assert elastic.most_workers == 5
    assert dataclasses.replace(elastic, min_workers=0, max_workers=0).most_workers == 1


@pytest.mark.ray
def test_what_ray_tells_of_lost_workers_and_of_wrong_settings_is_told_apart():
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import (
        UserExceptionWithTraceback,
        WorkerHealthCheckFailedError,
    )
    from ray.train.v2.api.exceptions import WorkerGroupError

    def told(failures):
        return told_plainly(WorkerGroupError("many lines", failures), failures)

    def raised(error):
        return UserExceptionWithTraceback(error, "Traceback ...")

    missing, peer = MissingWeightsError("no such file"), RuntimeError("Connection reset by peer")
    gone = WorkerHealthCheckFailedError("its actor died", ActorDiedError())
    for failure in (missing, raised(missing)):
        wrong = told({0: peer, 1: failure, 2: gone})
        assert would_fail_again(wrong)
        assert exit_code(wrong) == (3, "no such file")
    lost = told({0: peer, 1: gone})
    assert isinstance(lost, RankDiedError)
    assert not would_fail_again(lost)
    code, line = exit_code(lost)
    assert code == 5
    assert line.startswith("rank 1 was lost on Ray: ")
    assert "\n" not in line
    assert told({0: raised(peer), 1: TypeError("a bug")}).args == ("a bug",)


def start(shard_set: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster.app", "pretrain", f"data.shards={shard_set}"]
    return subprocess.Popen(
        [*command, f"out={out}", *ON_RAY, *more], stderr=subprocess.PIPE, text=True
    )


def train_workers_of(driver: subprocess.Popen[str]) -> list[int]:
    """Find the workers of Ray Train among the processes that a command has started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = folder.joinpath("stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = folder.joinpath("cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)] = int(told[1])

    def is_below(pid: int) -> bool:
        return pid == driver.pid or (pid in parents and is_below(parents[pid]))

    return [pid for pid, name in names.items() if b"RayTrainWorker" in name and is_below(pid)]


@pytest.mark.ray
@pytest.mark.slow
def test_what_is_wrong_with_the_settings_ends_the_run_at_once_with_its_own_line(
    shard_set, tmp_path
):
    """Only a worker looks for the weights."""
    weights = ["image_encoder=resnet18", f"image_encoder.weights={tmp_path / 'absent.pth'}"]
    driver = start(shard_set, tmp_path / "run", *weights, "runtime.max_failures=3")
    _, told = driver.communicate(timeout=280)
    assert driver.returncode == 3
    (line,) = [line for line in told.splitlines() if line.startswith("picpoint: ")]
    assert "absent.pth" in line
    assert "begun again" not in told


@pytest.mark.ray
@pytest.mark.slow
def test_three_killed_workers_change_no_bit_of_what_one_machine_trains(shard_set, tmp_path):
    """Each after the first step that follows a start; the run beside it knows no Ray."""
    shards, same = f"data.shards={shard_set}", [*ON_RAY, *TWO_WORKERS, "epochs=60"]
    assert main(["pretrain", shards, f"out={tmp_path / 'calm'}", *same, "runtime.name=local"]) == 0
    out = tmp_path / "killed"
    driver = start(shard_set, out, *same, f"runtime.max_failures={NUM_KILLS}")
    begun_before: set[int] = set()
    for kill in range(NUM_KILLS):
        newest = max(steps_logged(out), default=0)
        deadline = time.monotonic() + 280
        while max(steps_logged(out), default=0) <= newest or not (
            workers := set(train_workers_of(driver)) - begun_before
        ):
            assert driver.poll() is None, driver.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(workers) == 2
        begun_before |= workers
        os.kill(sorted(workers)[kill % 2], signal.SIGKILL)
    _, told = driver.communicate(timeout=280)
    assert driver.returncode == 0, told
    assert " was lost on Ray: " in told
    for kill in range(NUM_KILLS):
        assert f"begun again from the newest checkpoint ({kill + 1} of at most 3 times)" in told
    calm, killed = (tmp_path / name for name in ("calm", "killed"))
    assert steps_logged(killed) == steps_logged(calm)
    assert digest_of_weights(killed / "checkpoints") == digest_of_weights(calm / "checkpoints")
