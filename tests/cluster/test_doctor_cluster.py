"""The doctor of clusters: what it makes of what nodes say, and a real head as it is looked at."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from head_node import head_node
from job_api import JobApi, serve
from s3_server import BUCKET, s3_server

from cluster.app import main
from cluster.doctor_cluster import Cluster, Node, findings_of, read_cluster
from cluster.jobs_client import ClusterError

ROOT = Path(__file__).parents[2]
HERE = {
    "python": platform.python_version(),
    "ray": version("ray"),
    "picpoint": version("picpoint"),
    "torch": version("torch"),
    "gpus": 0,
    "store": None,
}
TOTAL = {"CPU": 8.0, "memory": 16e9}


def cluster_of(*told: dict, gpus: int = 0, total: dict = TOTAL) -> Cluster:
    nodes = [Node(f"node-{number}", gpus, HERE | each) for number, each in enumerate(told)]
    return Cluster(total, total, nodes)


def wrong(cluster: Cluster, is_open: bool = False, store: str = "") -> dict[str, str]:
    """What is found amiss, and what it says."""
    found = findings_of(cluster, is_open, store)
    return {what: f"{each.told}; {each.remedy}" for what, each in found.items() if not each.fine}


def test_nodes_that_are_as_this_machine_are_fine():
    assert wrong(cluster_of({}, {})) == {}
    assert wrong(cluster_of({"gpus": 8}, gpus=8)) == {}


@pytest.mark.parametrize(
    ("told", "what", "says"),
    [
        ({"python": "3.9.1"}, "Python", "3.9.1"),
        ({"ray": "2.44.0"}, "Ray", "2.44.0, "),
        ({"picpoint": None}, "picpoint", "build the images"),
        ({"picpoint": "0.0.1"}, "picpoint", "--working-dir ."),
        ({"error": "does not answer"}, "nodes", "node-1 (does not answer)"),
    ],
)
def test_a_node_that_is_otherwise_is_told_with_a_remedy(told, what, says):
    found = wrong(cluster_of({}, told))
    assert list(found) == [what]
    assert says in found[what]


def test_a_patch_of_python_makes_no_difference():
    first, second, _ = platform.python_version_tuple()
    assert wrong(cluster_of({"python": f"{first}.{second}.99"})) == {}


def test_gpus_that_torch_does_not_see_are_told():
    found = wrong(cluster_of({"gpus": 1}, {"gpus": 2}, gpus=2))
    assert list(found) == ["GPUs"]
    assert "node-0 (1 of 2)" in found["GPUs"]
    assert "node-1" not in found["GPUs"]


def test_a_cluster_that_asks_for_no_token_is_wrong():
    assert "RAY_AUTH_MODE=token" in wrong(cluster_of({}), is_open=True)["token"]


def test_a_store_that_some_nodes_do_not_reach_is_told_with_their_reason():
    store = "s3://bucket/shards"
    nodes = cluster_of({"store": ""}, {"store": "StoreError: 403"})
    assert "1 of 2 nodes; node-1: StoreError: 403" in wrong(nodes, store=store)["object store"]
    assert wrong(cluster_of({"store": ""}), store=store) == {}


def test_a_cluster_whose_workers_come_later_is_fine():
    found = findings_of(cluster_of({}, total={"memory": 1e9}), False, "")
    assert found["nodes"].fine
    assert "when a job asks" in found["nodes"].told


def test_an_answer_is_found_among_rays_own_lines_and_missed_where_there_is_none():
    node = {"name": "a", "resources": {"CPU": 2.0, "GPU": 1.0}, "told": HERE}
    answer = json.dumps({"total": TOTAL, "free": {}, "nodes": [node]})
    found = read_cluster(f"INFO started\n{answer}\n(raylet) 7\n", "http://x")
    assert found.nodes == [Node("a", 1, HERE)]
    for nothing in ("", "INFO started\n{}", "Traceback\n3\n[]"):
        with pytest.raises(ClusterError, match="gave no answer"):
            read_cluster(nothing, "http://x")


def test_a_refused_token_and_a_silent_address_are_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(JobApi(token="right")) as api:
        assert main(["doctor", "--cluster", api.at_loopback]) == 5
        assert "asks for a token" in capsys.readouterr().err
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert main(["doctor", "--cluster", api.at_loopback]) == 5
        assert "refuses this token" in capsys.readouterr().err
    assert main(["doctor", "--cluster", api.at_loopback]) == 5
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["doctor", "--cluster", "not a url"]) == 2
    assert main(["doctor", "--store", "s3://bucket"]) == 2


def examine(*words: str, access: dict[str, str]) -> tuple[int, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "cluster.app", "doctor", "--cluster", *words],
        env=clean | access,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_head_is_looked_at_from_inside(tmp_path, monkeypatch):
    """`ray start --head`, with a token; the object store is reached with the head's credentials."""
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with head_node(num_cpus=2) as head:
            code, told = examine(head.url, "--store", f"s3://{BUCKET}/shards", access=head.access)
            lines = {line[9:27].strip(): line for line in told.splitlines()}
            assert lines["token"].startswith("ok")
            assert lines["nodes"].startswith("ok")
            assert "2 of 2 CPUs free" in lines["nodes"]
            assert version("ray") in lines["Ray"]
            assert lines["Ray"].startswith("ok")
            assert lines["Python"].startswith("ok")
            assert lines["GPUs"].startswith("ok")
            assert lines["object store"].startswith("ok"), told
            assert code == 0
            code, told = examine(head.url, access=head.without_token)
            assert code == 5
            assert "asks for a token" in told
