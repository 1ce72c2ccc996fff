"""The same work as tasks of a Ray cluster: one that is started for the job, and one that grows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from growing_cluster import growing_cluster

from cluster.app import main
from cluster.fleet import FleetConfig, run_tasks
from shards.errors import TransientStoreError
from shards.store import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIZES = ["source=demo", "shapes_per_shard=22", "capture.num_points=256", "capture.rig.size_px=48"]


@pytest.fixture(autouse=True)
def workers_find_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def disturbed(marker: Path) -> str:
    """Lose the worker the first time, meet a fault in passing the second."""
    if not marker.exists():
        marker.write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)
    if marker.read_text() == "1":
        marker.write_text("2")
        raise TransientStoreError("the network")
    return marker.name


def wrong(number: int) -> int:
    raise ValueError(f"{number}: is wrong")


def test_killed_workers_and_passing_faults_lose_nothing(tmp_path: Path) -> None:
    fleet = FleetConfig(name="ray", max_workers=2)
    tasks = [tmp_path / f"task-{number}" for number in range(4)]
    assert sorted(run_tasks(disturbed, tasks, fleet)) == [task.name for task in tasks]
    with pytest.raises(ValueError, match="3: is wrong"):
        list(run_tasks(wrong, [3], fleet))


def test_a_set_rendered_on_ray_is_the_one_rendered_here(tmp_path: Path) -> None:
    here, on_ray = LocalStore(tmp_path / "here"), LocalStore(tmp_path / "ray")
    assert main(["render", f"out={here.root}", *SIZES]) == 0
    joined = ["fleet=ray", "fleet.address=local", "fleet.max_workers=2"]
    assert main(["render", f"out={on_ray.root}", *SIZES, *joined]) == 0
    names = set(here.list_names()) - {"render.done.json"}
    assert names == set(on_ray.list_names()) - {"render.done.json"}
    assert all(here.get(name) == on_ray.get(name) for name in names)


def node_after_a_while(seconds: float) -> str:
    import ray

    time.sleep(seconds)
    return ray.get_runtime_context().get_node_id()


def test_a_cluster_grows_for_the_tasks_that_wait_and_shrinks_when_none_do() -> None:
    client = """
import sys, time
import ray
from cluster.fleet import FleetConfig, run_tasks
from test_fleet_on_ray import node_after_a_while

fleet = FleetConfig(name="ray", max_workers=4, address=sys.argv[1])
started = time.monotonic()
nodes = list(run_tasks(node_after_a_while, [4.0] * 8, fleet))
worked = time.monotonic()
assert (len(nodes), len(set(nodes))) == (8, 2), nodes
with ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False):
    deadline = time.monotonic() + 90
    while (left := sum(node["Alive"] for node in ray.nodes())) > 1:  # the head stays
        assert time.monotonic() < deadline, f"{left} nodes stay, without work"
        time.sleep(1)
    gone = time.monotonic()
print(f"8 tasks of 4 s: {worked - started:.0f} s; no node left {gone - worked:.0f} s later")
"""
    with growing_cluster(max_nodes=2, idle_minutes=0.1) as (address, access):
        subprocess.run([sys.executable, "-c", client, address], env=os.environ | access, check=True)
