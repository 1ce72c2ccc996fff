"""Quotas and a queue for jobs that bring their own cluster, as Kueue (0.19) takes them."""

import copy
from typing import cast

from cluster.manifests.kuberay import Object, pretrain_job
from cluster.manifests.source import Cluster, Site

_API = "kueue.x-k8s.io/v1beta2"
_QUEUE = "picpoint"
# What all jobs of the queue may hold at once, of each pool: cores, GiB, GPUs.
_QUOTAS = {"cpu": (40, 160, 0), "gpu": (64, 256, 8)}


def queues(site: Site) -> list[Object]:
    """Give the pools of nodes, what may be taken of them, and the queue that waits for it."""
    flavors: list[Object] = [
        {
            "apiVersion": _API,
            "kind": "ResourceFlavor",
            "metadata": {"name": f"picpoint-{pool}"},
            "spec": {"nodeLabels": {"pool": pool}},
        }
        for pool in _QUOTAS
    ]
    names = ("cpu", "memory", "nvidia.com/gpu")
    quotas: list[Object] = [
        {
            "name": f"picpoint-{pool}",
            "resources": [
                {"name": name, "nominalQuota": amount}
                for name, amount in zip(names, (cpus, f"{gib}Gi", gpus), strict=True)
            ],
        }
        for pool, (cpus, gib, gpus) in _QUOTAS.items()
    ]
    return [
        *flavors,
        {
            "apiVersion": _API,
            "kind": "ClusterQueue",
            "metadata": {"name": _QUEUE},
            "spec": {
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": site.namespace}
                },
                "resourceGroups": [{"coveredResources": list(names), "flavors": quotas}],
                # A run that is moved out goes on from its checkpoint when it is let in again.
                "preemption": {"withinClusterQueue": "LowerPriority"},
            },
        },
        {
            "apiVersion": _API,
            "kind": "LocalQueue",
            "metadata": {"name": _QUEUE, "namespace": site.namespace},
            "spec": {"clusterQueue": _QUEUE},
        },
        _priority("picpoint-low", 100, "sweeps and ablations"),
        _priority("picpoint-high", 1000, "runs that others wait for"),
    ]


def queued_pretrain_job(name: str, cluster: Cluster, site: Site, num_gpus: int) -> Object:
    """Give a pre-training run that waits for its whole cluster; Kueue lets none of them grow."""
    job = copy.deepcopy(pretrain_job(name, cluster, site, num_gpus))
    metadata, spec = cast(Object, job["metadata"]), cast(Object, job["spec"])
    cast(Object, metadata["labels"]).update(
        {
            "kueue.x-k8s.io/queue-name": _QUEUE,
            "kueue.x-k8s.io/priority-class": "picpoint-low",
        }
    )
    # Kueue begins a job again by itself.
    del spec["backoffLimit"]
    inside = cast(Object, spec["rayClusterSpec"])
    del inside["enableInTreeAutoscaling"], inside["autoscalerOptions"]
    for group in cast(list[Object], inside["workerGroupSpecs"]):
        number = num_gpus if group["groupName"] == "gpu" else 1
        group |= {"replicas": number, "minReplicas": number, "maxReplicas": number}
    return job


def _priority(name: str, value: int, description: str) -> Object:
    return {
        "apiVersion": _API,
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": description,
    }
