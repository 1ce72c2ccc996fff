"""A study on a cluster that has no machine yet: its trials wait for some, and these go again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from growing_cluster import growing_cluster
from tiny_run import TINY_RUN

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TINY = [
    *TINY_RUN[1:],  # where it runs is the study's business
    *("global_batch=4", "ghost_batch=2", "epochs=1", "trackers=[]"),
    *("data.holdout.num_folds=3", "data.holdout.validation_fold=1", "probe.every=4"),
    "probe.per_class=2",
]
NODES_LEFT = """
import sys, time
import ray

with ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False):
    deadline = time.monotonic() + 120
    while (left := sum(node["Alive"] for node in ray.nodes())) > 1:  # the head stays
        assert time.monotonic() < deadline, f"{left} nodes stay, without work"
        time.sleep(1)
"""


def test_trials_wait_for_machines_that_come_and_go(shard_set: Path, tmp_path: Path) -> None:
    study = [
        *("tune", "study=ablations", f"shards={shard_set}", f"out={tmp_path}"),
        f"study.more={json.dumps([f'pretrain.{each}' for each in TINY])}",
        "study.variants=[{name: full, overrides: []}]",
        "study.parameters=[{key: pretrain.seed, values: [0, 1, 2]}]",
        "trial.cpus=1",
    ]
    with growing_cluster(max_nodes=2, idle_minutes=0.1) as (address, access):
        command = [sys.executable, "-m", "cluster.app", *study, f"trial.address={address}"]
        environment = os.environ | access
        refused = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert "say trial.max_concurrent=N" in refused.stderr
        started_s = time.monotonic()
        done = subprocess.run(
            [*command, "trial.max_concurrent=2"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        took_s = {"three trials": time.monotonic() - started_s}
        subprocess.run([sys.executable, "-c", NODES_LEFT, address], env=environment, check=True)
        took_s["until no node was left"] = time.monotonic() - started_s
    print({what: round(seconds, 1) for what, seconds in took_s.items()})
    record = json.loads((tmp_path / "study.json").read_text())
    assert [trial["result"]["state"] for trial in record["trials"]] == ["done"] * 3
