"""Figures reach Prometheus through Ray, and the dashboard shows none that does not exist."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from head_node import free_port, head_node
from tiny_run import TINY_RUN

from cluster.compose import ConfigError
from cluster.manifests.__main__ import HERE
from cluster.manifests.grafana import NODE_METRICS, dashboard, queries_of
from cluster.ray_metrics import METRICS, RayMetrics, metric_name
from cluster.runtime import RuntimeConfig
from cluster.trackers import _PROBED, Trackers
from cluster.training import trackers_of
from picpoint.train.log import StepReport

ROOT = Path(__file__).parents[2]
REPORT = {each.name: 1 for each in dataclasses.fields(StepReport)}


def names_in(queries) -> set[str]:
    return set(re.findall(r"\bray_\w+", " ".join(queries)))


@pytest.fixture
def gauges(monkeypatch):
    """What is set of Ray's gauges, by name and run, in a process that has joined a cluster."""
    import ray.util.metrics

    found: dict[tuple[str, str], float] = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            self.name = name
            assert description
            assert tag_keys == ("run",)

        def set(self, value, tags):
            found[self.name, tags["run"]] = value

    monkeypatch.setattr(ray.util.metrics, "Gauge", Gauge)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return found


def test_every_metric_of_the_dashboard_is_emitted(gauges, tmp_path):
    with Trackers(["ray"], tmp_path / "mine", {}, 0) as trackers:
        trackers.log(REPORT)
        trackers.log_probe({"step": 1, **dict.fromkeys(_PROBED, 0.5)})
    emitted = {f"ray_{name}" for name, _ in gauges}
    shown = names_in(queries_of(dashboard()))
    assert shown == emitted & shown | set(NODE_METRICS)
    assert {metric.name for metric in METRICS} <= shown
    assert gauges["picpoint_probe_accuracy", "mine"] == 0.5
    assert gauges["picpoint_step", "mine"] == 1


def test_nodes_metrics_are_rays_own():
    from ray.dashboard.modules.reporter import reporter_agent

    source = Path(reporter_agent.__file__).read_text()
    for name in NODE_METRICS:
        assert f'"{name.removeprefix("ray_")}"' in source, name


def test_figures_without_a_cluster_and_no_numbers_are_passed_over(gauges, monkeypatch):
    metrics = RayMetrics("mine")
    metrics.log(3, {"loss": float("nan"), "lr": 0.1})
    assert set(gauges) == {("picpoint_lr", "mine"), ("picpoint_step", "mine")}
    gauges.clear()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    metrics.log(4, {"lr": 0.2})
    assert gauges == {}


def test_a_run_that_joins_a_cluster_has_rays_metrics_and_one_without_ray_cannot():
    def job(trackers, **runtime):
        return SimpleNamespace(trackers=trackers, runtime=RuntimeConfig(**runtime))

    joined = job(("tensorboard",), name="ray", address="auto")
    assert trackers_of(joined) == ("tensorboard", "ray")
    assert trackers_of(job(("ray",), name="ray", address="auto")) == ("ray",)
    assert trackers_of(job((), name="ray")) == ()
    assert trackers_of(job((), name="local", address="auto")) == ()
    with pytest.raises(ConfigError, match="runtime=ray"):
        trackers_of(job(("ray",), name="local"))


def test_the_committed_dashboard_is_that_of_the_source_and_whole():
    text = (HERE / "grafana" / "picpoint.json").read_text()
    assert text == dashboard()
    shown = json.loads(text)
    ids = [panel["id"] for panel in shown["panels"]]
    places = {tuple(panel["gridPos"].values()) for panel in shown["panels"]}
    assert len(set(ids)) == len(ids) == len(places)
    assert all(panel["targets"] for panel in shown["panels"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_is_seen_by_what_asks_as_prometheus_does(shard_set: Path, tmp_path: Path):
    port = free_port()
    with head_node(num_cpus=2, metrics_port=port) as head:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "cluster.app", "pretrain", f"data.shards={shard_set}"),
                *(f"out={tmp_path / 'seen'}", *TINY_RUN, "runtime=ray"),
                *("runtime.address=auto", "global_batch=4", "ghost_batch=2", "log_every=1"),
                *("epochs=100000", "trackers=[]", "runtime.use_gpu=false"),
            ],
            env=clean | head.access | {"RAY_ADDRESS": head.gcs_address, "RAY_AUTH_MODE": "token"},
            cwd=ROOT,
        )
        try:
            wanted = {m.name for m in METRICS if m.figure != "probe_accuracy"}
            wanted.add("ray_node_cpu_utilization")
            found: dict[str, str] = {}
            deadline = time.monotonic() + 600
            while not wanted <= set(found):
                assert run.poll() is None
                assert time.monotonic() < deadline, wanted - set(found)
                time.sleep(2)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
                    lines = page.read().decode().splitlines()
                found = {re.split(r"[{ ]", line)[0]: line for line in lines if line[:1] != "#"}
            assert 'run="seen"' in found[f"ray_{metric_name('loss')}"]
        finally:
            run.kill()
            run.wait()
