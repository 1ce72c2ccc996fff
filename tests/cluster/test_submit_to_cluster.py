"""Submitting to a real cluster: log and exit code come back, and Ctrl-C spares the job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from head_node import HeadNode, head_node
from tiny_run import TINY_RUN

from picpoint.train.checkpoint import newest_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = ["source=demo", "shapes_per_shard=22", "capture.num_points=256", "capture.rig.size_px=48"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[HeadNode]:
    with head_node(num_cpus=3) as node:
        yield node


def picpoint(cluster: HeadNode, *words: object, token: bool = True) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= cluster.access if token else cluster.without_token
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.app", *map(str, words), "--address", cluster.url],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_submitted_render_writes_the_set_and_says_what_it_was(
    cluster: HeadNode, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    sent = picpoint(
        cluster,
        *("submit", "render", f"out={out}", *SMALL, "fleet.max_workers=2", "--working-dir", "."),
        *("--submission-id", "first"),
    )
    code, told, err = finish(sent)
    assert code == 0, err
    assert "rejected: none" in told
    assert (out / "manifest.json").exists()
    code, listed, _ = finish(picpoint(cluster, "jobs", "list"))
    row = next(line for line in listed.splitlines() if line.startswith("first"))
    assert "SUCCEEDED" in row
    assert "render" in row
    # The cluster has no history of the folder, and still knows the commit.
    done = json.loads((out / "render.done.json").read_text())
    assert done["commit"] in row
    assert done["commit"] != "unknown"
    code, log, _ = finish(picpoint(cluster, "jobs", "logs", "first"))
    assert code == 0
    assert "rejected: none" in log


def test_a_job_that_fails_gives_its_exit_code(cluster: HeadNode, tmp_path: Path) -> None:
    sent = picpoint(cluster, "submit", "report", str(tmp_path), "--working-dir", ".")
    code, told, _ = finish(sent)
    assert code == 3
    assert "picpoint evaluate" in told  # the remedy, from the job's own log


def test_without_the_token_nothing_is_taken(cluster: HeadNode, tmp_path: Path) -> None:
    words = ("submit", "report", str(tmp_path), f"out={tmp_path}")
    code, _, err = finish(picpoint(cluster, *words, token=False))
    assert code == 5
    assert "asks for a token" in err
    assert len(err.strip().splitlines()) == 1


def test_control_c_leaves_the_job_running_and_stop_ends_it(
    cluster: HeadNode, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    sent = picpoint(
        cluster,
        *("submit", "render", f"out={out}", "source=demo", "shapes_per_shard=1"),
        *("capture.rig.size_px=480", "capture.rasterizer.supersampling=4", "fleet.max_workers=1"),
        *("--working-dir", ".", "--submission-id", "long"),
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("*.tar")):
        assert time.monotonic() < deadline
        assert sent.poll() is None, finish(sent)
        time.sleep(0.2)
    sent.send_signal(signal.SIGINT)
    code, _, err = finish(sent)
    assert code == 130
    assert "picpoint jobs stop long" in err
    before = len(list(out.glob("*.tar")))
    while len(list(out.glob("*.tar"))) == before:  # it goes on
        assert time.monotonic() < deadline
        time.sleep(0.2)
    code, told, err = finish(picpoint(cluster, "jobs", "stop", "long"))
    assert code == 0, err
    assert "long: STOPPED" in told
    assert not (out / "manifest.json").exists()
    code, _, _ = finish(picpoint(cluster, "jobs", "logs", "long", "--follow"))
    assert code == 130


def test_a_stopped_pre_training_leaves_a_checkpoint_from_which_the_same_command_goes_on(
    cluster: HeadNode, shard_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [
        *("submit", "pretrain", f"data.shards={shard_set}", f"out={out}", *TINY_RUN),
        *("global_batch=4", "ghost_batch=2", "checkpoint_every=100000", "log_every=1"),
        *("runtime=ray", "runtime.num_workers=1", "runtime.use_gpu=false", "--working-dir", "."),
    ]
    command = [*command, "epochs=3000", "--no-wait", "--submission-id"]

    def steps_until_stopped(submission_id: str, more_than: int) -> list[int]:
        assert finish(picpoint(cluster, *command, submission_id))[0] == 0
        log = out / "metrics.jsonl"
        deadline = time.monotonic() + 180
        while not (log.exists() and len(log.read_text().splitlines()) > more_than):
            assert time.monotonic() < deadline, finish(
                picpoint(cluster, "jobs", "logs", submission_id)
            )
            time.sleep(0.5)
        code, told, err = finish(picpoint(cluster, "jobs", "stop", submission_id))
        assert code == 0, err
        assert f"{submission_id}: STOPPED" in told
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        found, passed_over = newest_checkpoint(str(out / "checkpoints"))
        assert found is not None
        assert not passed_over
        assert found.state["samples_seen"] == 4 * steps[-1]
        return steps

    first = steps_until_stopped("begun", more_than=2)
    assert (out / "ray").is_dir()  # it was Ray that ran it
    both = steps_until_stopped("gone-on", more_than=len(first) + 2)
    assert both == list(range(1, len(both) + 1))
