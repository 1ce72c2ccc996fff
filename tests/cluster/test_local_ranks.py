"""Ranks that are lost are begun again; what would fail again is told at once."""

import functools
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cluster.exit_codes import would_fail_again
from cluster.fleet import WorkerDiedError
from cluster.local_ranks import RankDiedError, run_ranks
from cluster.runtime import RuntimeConfig, _ray_rank, run_on_local_processes
from picpoint.encoders.image_weights import MissingWeightsError
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.claim import ClaimError
from picpoint.train.notice import Notice
from shards.errors import CorruptSampleError, TransientStoreError


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CheckpointError("x"), True),
        (CorruptSampleError("x"), True),
        (MissingWeightsError("x"), True),
        (ClaimError("x"), True),
        (TransientStoreError("x"), False),
        (WorkerDiedError("x"), False),
        (ConnectionResetError("x"), False),
        (RuntimeError("Connection closed by peer"), False),
    ],
)
def test_errors_of_the_moment_are_tried_again_and_no_others(error, again):
    assert would_fail_again(error) == again


def die_once(folder: Path, how: str, rank: int) -> None:
    """Meet the others, and the first time fail on rank 1."""
    total = torch.ones(())
    dist.all_reduce(total)
    marker = folder / "died"
    if rank == 1 and not marker.exists():
        marker.touch()
        match how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "settings":
                raise CheckpointError("of other settings")
    dist.all_reduce(total)
    (folder / f"done-{rank}").write_text(str(total.item()))


def test_a_killed_rank_costs_a_new_beginning_only(tmp_path, capfd):
    run_ranks(functools.partial(die_once, tmp_path, "kill"), 2, "gloo", 120, max_failures=1)
    assert {path.name: path.read_text() for path in tmp_path.glob("done-*")} == {
        "done-0": "4.0",
        "done-1": "4.0",
    }
    assert "rank 1 was killed (SIGKILL); begun again" in capfd.readouterr().err


def test_what_is_wrong_with_the_settings_is_told_by_its_own_name_and_not_tried_again(tmp_path):
    with pytest.raises(CheckpointError, match="of other settings"):
        run_ranks(functools.partial(die_once, tmp_path, "settings"), 2, "gloo", 120, 3)
    assert not list(tmp_path.glob("done-*"))


@pytest.mark.slow
def test_a_stopped_rank_is_found_by_its_silence_and_the_others_begun_again(tmp_path, capfd):
    """The others would wait for it for ten minutes, and then tell of a lost peer."""
    run_ranks(functools.partial(die_once, tmp_path, "stop"), 2, "gloo", 600, max_failures=1)
    assert len(list(tmp_path.glob("done-*"))) == 2
    assert re.search(r"rank 1 has shown no life for \d+ s; begun again", capfd.readouterr().err)


@pytest.mark.slow
def test_ranks_that_are_lost_too_often_end_the_run(tmp_path):
    with pytest.raises(RankDiedError, match=r"rank 1 was killed \(SIGKILL\)"):
        run_ranks(functools.partial(die_once, tmp_path, "kill"), 2, "gloo", 120, max_failures=0)


@dataclass(frozen=True)
class CountingJob:
    """Tells how many threads its only rank computes with."""

    out: str
    runtime: RuntimeConfig
    command: str = "pretrain"

    def train(self, device: torch.device, notice: Notice) -> Iterator[int]:
        (Path(self.out) / "threads").write_text(str(torch.get_num_threads()))
        yield 0

    def with_absolute_paths(self) -> "CountingJob":
        return self


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (RuntimeConfig("ray", num_workers=8), 2),
        (RuntimeConfig("ray", min_workers=1, max_workers=64), 2),
        (RuntimeConfig("ray", num_workers=8, threads_per_worker=3), 3),
    ],
    ids=["of all machines", "elastic", "asked for"],
)
def test_a_rank_on_ray_shares_its_machine_with_the_ranks_there(
    tmp_path, monkeypatch, runtime, expected
):
    import ray.train.torch

    class Two:
        get_local_world_size = staticmethod(lambda: 2)

    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(ray.train, "get_context", Two)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    try:
        _ray_rank({"job": CountingJob(str(tmp_path), runtime)})
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "threads").read_text() == str(expected)


@pytest.mark.parametrize(
    ("variable", "threads", "expected"),
    [("1", 0, 1), ("7", 0, 4), ("", 0, 4), ("1", 3, 3)],
    ids=["of a trial", "more than there are", "unset", "asked for"],
)
def test_a_local_rank_keeps_to_its_cores(tmp_path, monkeypatch, variable, threads, expected):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    try:
        run_on_local_processes(
            CountingJob(str(tmp_path), RuntimeConfig(use_gpu=False, threads_per_worker=threads))
        )
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "threads").read_text() == str(expected)
