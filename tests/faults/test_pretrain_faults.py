"""Pre-training while its processes are killed: the weights are those of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from fault_proxy import Faults, fault_proxy
from processes import is_running
from run_folders import digest_of_weights, steps_logged
from tiny_run import TINY_RUN

from picpoint.train.checkpoint import (
    CheckpointError,
    Retention,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from tests.s3_server import BUCKET, s3_server

pytestmark = pytest.mark.slow

NUM_KILLS = 20
NUM_WRITES_KILLED = 50
DEADLINE_S = 1100
LONG_RUN = [
    *TINY_RUN,
    *("global_batch=6", "ghost_batch=2", "epochs=120", "checkpoint_every=3", "log_every=1"),
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
            driver_killed = driver.pid if num_killed % 5 == 4 else -1
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


def write_for_ever(folder: str, first: int) -> None:
    """Be a run that saves every step; its state says which."""
    torch.set_num_threads(1)
    for step in range(first, first + 100_000):
        state = {"weights": torch.full((200_000,), float(step)), "samples_seen": step}
        save_checkpoint(folder, step, state, {}, Retention(2))


def test_a_writer_killed_at_fifty_moments_never_leaves_a_checkpoint_that_lies(tmp_path):
    context = get_context("forkserver")
    context.set_forkserver_preload(["picpoint.train.checkpoint"])
    dice, last = random.Random(1), 0
    for _ in range(NUM_WRITES_KILLED):
        writer = context.Process(target=write_for_ever, args=(str(tmp_path), last + 1))
        writer.start()
        while (newest := max(map(step_of, tmp_path.glob("*.json")), default=0)) <= last + 1:
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.03))
        told = max(map(step_of, tmp_path.glob("*.json")), default=newest)
        writer.kill()
        writer.join()
        checkpoint, passed_over = newest_checkpoint(tmp_path)
        assert checkpoint is not None
        assert not passed_over
        step = checkpoint.state["samples_seen"]
        # The newest that was ever told of is there; at most the one in the making is lost.
        assert step >= told
        assert checkpoint.state["weights"].eq(step).all()
        last = step
    assert last >= 2 * NUM_WRITES_KILLED


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
