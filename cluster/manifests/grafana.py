"""A dashboard for Grafana (10 or newer): what runs say of themselves, and their nodes.

Its panels are made of cluster/ray_metrics.py and the list below; Prometheus is chosen in Grafana.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.ray_metrics import METRICS

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: above it.
        queries: in PromQL.
        legend: of each line, with labels in {{}}.
        unit: as Grafana names units.
    """

    title: str
    queries: tuple[str, ...]
    legend: str
    unit: str = "short"


# Of each node, by names of Ray's own (ray/dashboard/modules/reporter/reporter_agent.py).
NODE_METRICS = (
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_network_receive_speed",
    "ray_node_disk_utilization_percentage",
)


def panels() -> Iterator[Panel]:
    """Give all panels: of the runs chosen, then of all nodes."""
    for metric in METRICS:
        query = f'max by (run) ({metric.name}{{run=~"$run"}})'
        yield Panel(metric.title, (query,), "{{run}}", metric.unit)
    cpu, memory, gpu, gram, network, disk = NODE_METRICS
    by_node = "{{instance}}"
    yield Panel("Processors of a node", (cpu,), by_node, "percent")
    yield Panel("Memory of a node", (memory,), by_node, "bytes")
    yield Panel("GPUs of a node", (gpu,), f"{by_node} {{{{GpuIndex}}}}", "percent")
    yield Panel("Memory of GPUs", (f"{gram} * 1e6",), f"{by_node} {{{{GpuIndex}}}}", "bytes")
    yield Panel("Received by a node", (network,), by_node, "Bps")
    yield Panel("Disk of a node", (disk,), by_node, "percent")


def dashboard() -> str:
    """Give the dashboard as the JSON that Grafana imports."""
    shown = {
        "uid": "picpoint",
        "title": "picpoint",
        "description": "Made by `python -m cluster.manifests` from cluster/ray_metrics.py.",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _runs()]},
        "panels": [_panel(number, each) for number, each in enumerate(panels())],
    }
    return json.dumps(shown, indent=1) + "\n"


def queries_of(text: str) -> Sequence[str]:
    """Read all queries of a dashboard, also those that fill its menus."""
    shown = json.loads(text)
    menus = [each["query"] for each in shown["templating"]["list"] if each["type"] == "query"]
    return [target["expr"] for panel in shown["panels"] for target in panel["targets"]] + menus


def _panel(number: int, panel: Panel) -> dict[str, object]:
    row, column = divmod(number, _COLUMNS)
    place = {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": panel.legend}
            for index, query in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, object]:
    return {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
    }


def _runs() -> dict[str, object]:
    return {
        "name": "run",
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({METRICS[0].name}, run)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "label": "Run",
    }
