"""`picpoint doctor --cluster [ADDRESS]`: is a Ray cluster reachable, guarded, and of one kind?"""

import importlib.metadata
import json
import platform
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import cluster_probe
from cluster.cluster_address import find_address
from cluster.doctor import Finding, tell
from cluster.jobs_client import ClusterError, Jobs

# The head starts a process for the job, and each node one to answer it.
_WAIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Node:
    """What one node says of itself.

    Attributes:
        name: of its host.
        gpus: that Ray counts there.
        told: what cluster/cluster_probe.py found, or {"error": ...}.
    """

    name: str
    gpus: int
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster says of itself.

    Attributes:
        total: resources by name, bytes of memory.
        free: of them.
        nodes: that live.
    """

    total: Mapping[str, float]
    free: Mapping[str, float]
    nodes: Sequence[Node]


def main(given: str, insecure: bool, store: str) -> int:
    """Print all findings; 0 if jobs can be sent and run, else 3.

    Args:
        given: the address; "" to find it as `picpoint submit` does.
        insecure: look also at what asks for no token.
        store: URL that every node should reach; "" for none.

    Raises:
        ConfigError: no address of a job API, or plain http to another machine without a token.
        ClusterError: it cannot be reached, refuses the token, or does not answer.
    """
    address = find_address(given, insecure)
    jobs = Jobs(address)
    print(f"ok       reached           {address.url}", flush=True)
    cluster = _look(jobs, store)
    findings = findings_of(cluster, jobs.is_open, store)
    fine = [tell(what, lambda found=found: found, "WRONG") for what, found in findings.items()]
    return 0 if all(fine) else 3


def findings_of(cluster: Cluster, is_open: bool, store: str) -> dict[str, Finding]:
    """Judge what a cluster says of itself.

    Args:
        cluster: what it says.
        is_open: it asks for no token.
        store: URL that every node was asked to reach; "" for none.
    """
    findings = {
        "token": _token(is_open),
        "nodes": _nodes(cluster),
        "Python": _same("python", platform.python_version(), cluster.nodes),
        "Ray": _same("ray", importlib.metadata.version("ray"), cluster.nodes),
        "picpoint": _picpoint(cluster.nodes),
        "GPUs": _gpus(cluster.nodes),
    }
    if store:
        findings["object store"] = _store(store, cluster.nodes)
    return findings


def _look(jobs: Jobs, store: str) -> Cluster:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(cluster_probe.__file__, folder)
        line = shlex.join(
            ["python", Path(cluster_probe.__file__).name, *([store] if store else [])]
        )
        printed = jobs.ask(line, Path(folder), _WAIT_S)
    return read_cluster(printed, jobs.address.url)


def read_cluster(printed: str, url: str) -> Cluster:
    """Read what the probe printed, Ray's own lines left out.

    Raises:
        ClusterError: it printed nothing of the kind.
    """
    for line in reversed(printed.splitlines()):
        try:
            whole = json.loads(line)
            nodes = [
                Node(each["name"], int(each["resources"].get("GPU", 0)), each["told"])
                for each in whole["nodes"]
            ]
            return Cluster(whole["total"], whole["free"], nodes)
        except (ValueError, TypeError, KeyError):
            continue
    raise ClusterError(f"{url}: its head ran the question and gave no answer: {printed[-300:]!r}")


def _token(is_open: bool) -> Finding:
    if is_open:
        return Finding(
            False,
            "none is asked for, so whoever reaches the cluster runs code there",
            "start it with RAY_AUTH_MODE=token (docs/operations.md)",
        )
    return Finding(True, "asked for, and ours is accepted")


def _nodes(cluster: Cluster) -> Finding:
    silent = [f"{n.name} ({n.told['error']})" for n in cluster.nodes if "error" in n.told]
    sizes = ", ".join(
        f"{cluster.free.get(name, 0) / unit:g} of {total / unit:g} {label} free"
        for name, label, unit in (("CPU", "CPUs", 1), ("GPU", "GPUs", 1))
        if (total := cluster.total.get(name, 0))
    )
    memory_gb = cluster.total.get("memory", 0) / 1e9
    told = f"{len(cluster.nodes)}; {sizes or 'no CPUs'}; {memory_gb:.0f} GB of memory"
    if silent:
        return Finding(False, f"{told}; no answer: {', '.join(silent)}", "look at their raylet.err")
    if not cluster.total.get("CPU"):
        return Finding(
            True, f"{told}; workers come when a job asks for them, if the cluster grows by itself"
        )
    return Finding(True, told)


def _same(name: str, here: str, nodes: Sequence[Node]) -> Finding:
    """Compare versions; of Python the two first numbers must agree, of Ray all."""
    there = sorted({str(node.told.get(name)) for node in nodes if "error" not in node.told})
    length = 2 if name == "python" else 3
    short = {".".join(each.split(".")[:length]) for each in there}
    if short == {".".join(here.split(".")[:length])}:
        return Finding(True, f"{', '.join(there)}, as here")
    return Finding(
        False,
        f"{', '.join(there) or 'unknown'} there, {here} here",
        "nodes of one cluster and what joins it must agree; submit from the cluster's image",
    )


def _picpoint(nodes: Sequence[Node]) -> Finding:
    there = {str(node.told.get("picpoint")) for node in nodes if "error" not in node.told}
    here = importlib.metadata.version("picpoint")
    if there == {here}:
        return Finding(True, f"{here}, as here")
    if "None" in there:
        return Finding(
            False,
            "not installed on every node",
            "build the images (docs/operations.md); --working-dir brings the code alone",
        )
    return Finding(
        False,
        f"{', '.join(sorted(there))} there, {here} here",
        "submit with --working-dir . to run the code that is here",
    )


def _gpus(nodes: Sequence[Node]) -> Finding:
    blind = [
        f"{node.name} ({node.told['gpus']} of {node.gpus})"
        for node in nodes
        if "error" not in node.told and node.told["gpus"] < node.gpus
    ]
    if blind:
        return Finding(
            False,
            f"torch sees fewer than Ray counts on {', '.join(blind)}",
            "the image needs CUDA (train-cuda), the node its driver and device plugin",
        )
    total = sum(node.gpus for node in nodes)
    return Finding(True, f"{total}, seen by torch" if total else "none; runs use the CPU")


def _store(url: str, nodes: Sequence[Node]) -> Finding:
    failed = {node.name: node.told.get("store") for node in nodes if node.told.get("store") != ""}
    if not failed:
        return Finding(True, f"{url} is reached from every node")
    name, reason = next(iter(failed.items()))
    return Finding(
        False,
        f"{url} is not reached from {len(failed)} of {len(nodes)} nodes; {name}: {reason}",
        "give the machines a role, or the Secret picpoint-secrets; look at AWS_ENDPOINT_URL",
    )
