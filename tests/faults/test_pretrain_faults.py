"""Pre-training while its processes are killed: the weights are those of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from fault_proxy import Faults, fault_proxy
from processes import is_running
from run_folders import digest_of_weights, steps_logged
from tiny_run import TINY_RUN

from cluster.app import main as picpoint
from picpoint.train.checkpoint import (
    CheckpointError,
    Retention,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from tests.s3_server import BUCKET, s3_server

pytestmark = pytest.mark.slow

# `make faults` shows what the README tells, `make faults KILLS=few` (every change) some of it.
FEW_KILLS = os.environ.get("KILLS") == "few"
NUM_KILLS, NUM_DRIVERS_KILLED, EPOCHS = (6, 12, 40) if FEW_KILLS else (20, 50, 120)
CHECKPOINT_EVERY = 3
GLOBAL_BATCH = 6
DEADLINE_S = 1100
LONG_RUN = [
    *TINY_RUN,
    *(f"global_batch={GLOBAL_BATCH}", "ghost_batch=2", f"epochs={EPOCHS}"),
    *(f"checkpoint_every={CHECKPOINT_EVERY}", "log_every=1"),
    *("runtime.num_workers=3", "runtime.threads_per_worker=1", "runtime.max_failures=100"),
]


def start(shards: Path, out: Path) -> subprocess.Popen[bytes]:
    command = ["pretrain", f"data.shards={shards}", f"out={out}", *LONG_RUN]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.app", *command],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ranks_of(driver: subprocess.Popen[bytes]) -> list[int]:
    """Living processes that the driver's server has forked."""
    parents, servers = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            command = folder.joinpath("cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if state != "Z":
            parents[int(folder.name)] = int(parent)
        if int(parent) == driver.pid and b"forkserver" in command:
            servers.add(int(folder.name))
    return [pid for pid, parent in parents.items() if parent in servers]


def test_twenty_kills_of_three_ranks_change_no_bit_of_the_weights(shard_set, tmp_path):
    undisturbed = start(shard_set, tmp_path / "calm")
    assert undisturbed.wait(DEADLINE_S) == 0
    dice, num_killed, deadline = random.Random(0), 0, time.monotonic() + DEADLINE_S
    driver = start(shard_set, tmp_path / "killed")
    total = steps_logged(tmp_path / "calm")[-1]
    # Each kill waits for a step of its own, some steps after the last kill.
    due = sorted(dice.sample(range(2, total - 3), NUM_KILLS))
    while driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        steps = steps_logged(tmp_path / "killed")
        if due and steps and steps[-1] >= due[0] and (ranks := ranks_of(driver)):
            due.pop(0)
            driver_killed = driver.pid if num_killed in (NUM_KILLS // 2 - 1, NUM_KILLS - 1) else -1
            victim = driver_killed if driver_killed > 0 else dice.choice(ranks)
            os.kill(victim, signal.SIGKILL)
            num_killed += 1
            if victim == driver.pid:
                driver.wait()
                driver = start(shard_set, tmp_path / "killed")
            gone = ranks if victim == driver_killed else [victim]
            while any(is_running(pid) for pid in gone):  # ranks end with their driver
                assert time.monotonic() < deadline
                time.sleep(0.02)
    assert driver.returncode == 0
    assert num_killed == NUM_KILLS
    assert steps_logged(tmp_path / "killed") == list(range(1, total + 1))
    calm, killed = (tmp_path / name / "checkpoints" for name in ("calm", "killed"))
    assert digest_of_weights(killed) == digest_of_weights(calm)


def drive(shards: Path, out: Path) -> None:
    """Be the whole command: training, log, checkpoints and the thread that writes them."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    places = [f"data.shards={shards}", f"out={out}"]
    sys.exit(picpoint(["pretrain", *places, *LONG_RUN, "runtime.num_workers=1"]))


def test_a_driver_killed_at_fifty_moments_loses_one_interval_at_most(shard_set, tmp_path):
    context = get_context("forkserver")
    context.set_forkserver_preload(["cluster.app", "cluster.jobs.pretrain", "torch._dynamo"])

    def start_driver(out: Path) -> BaseProcess:
        driver = context.Process(target=drive, args=(shard_set, out))
        driver.start()
        return driver

    out, checkpoints = tmp_path / "killed", tmp_path / "killed" / "checkpoints"
    calm = start_driver(tmp_path / "calm")
    calm.join(DEADLINE_S)
    dice, last_logged, resumed_at = random.Random(1), 0, 0
    deadline = time.monotonic() + DEADLINE_S
    for _ in range(NUM_DRIVERS_KILLED):
        driver = start_driver(out)
        due = last_logged + dice.randint(1, CHECKPOINT_EVERY)
        while max(steps_logged(out), default=0) < due:
            assert driver.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.05))
        told = max(map(step_of, checkpoints.glob("step-*.json")), default=0)
        driver.kill()
        driver.join()
        last_logged = max(steps_logged(out))
        newest, passed_over = newest_checkpoint(checkpoints)
        assert not passed_over
        step = step_of(Path(newest.path)) if newest else 0
        assert newest is None or newest.state["samples_seen"] == GLOBAL_BATCH * step
        # What was ever told of, or gone on from, is there.
        assert max(told, resumed_at) <= step
        assert last_logged - step <= CHECKPOINT_EVERY
        resumed_at = step
    assert last_logged >= NUM_DRIVERS_KILLED  # each driver came further than the one before
    driver = start_driver(out)
    driver.join(DEADLINE_S)
    assert (calm.exitcode, driver.exitcode) == (0, 0)
    assert steps_logged(out) == steps_logged(tmp_path / "calm")
    assert digest_of_weights(checkpoints) == digest_of_weights(tmp_path / "calm" / "checkpoints")


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def test_checkpoints_reach_a_bucket_whole_through_failing_requests(tmp_path, monkeypatch):
    faults = Faults(refused=0.1, reset=0.05, answer_lost=0.05, answer_cut=0.05, seed=0)
    folder = f"s3://{BUCKET}/run/checkpoints"
    with s3_server(tmp_path / "s3") as server:
        with fault_proxy(server.port, faults) as port:
            for name, value in server.environment(port).items():
                monkeypatch.setenv(name, value)
            for step in range(1, 16):
                state = {"weights": torch.full((50_000,), float(step)), "samples_seen": step}
                save_checkpoint(folder, step, state, {"seed": 0}, Retention(3, milestone_every=6))
                newest, passed_over = newest_checkpoint(folder)
                assert newest is not None
                assert (newest.state["samples_seen"], passed_over) == (step, ())
        assert sum(faults.counts.values()) - faults.counts["none"] >= 10, faults
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        import obstore

        store = server.store("run/checkpoints")
        names = sorted(entry["path"] for page in obstore.list(store) for entry in page)
        assert [step_of(Path(name)) for name in names if name.endswith(".json")] == [
            *(6, 12, 13, 14, 15)
        ]
        # Half of an upload looks like this where a store keeps such: another content, or no marker.
        newest_name = next(name for name in names if name.startswith("step-00000015"))
        pt = newest_name.rpartition(".")[0] + ".pt"
        obstore.put(store, pt, bytes(obstore.get(store, pt).bytes())[:-10])
        found, passed_over = newest_checkpoint(folder)
        assert found is not None
        assert found.state["samples_seen"] == 14
        assert "step-00000015" in passed_over[0]
        with pytest.raises(CheckpointError, match="differs from its marker"):
            load_checkpoint(f"{folder}/{pt}")
