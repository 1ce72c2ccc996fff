"""Clusters and jobs as KubeRay (1.7) takes them."""

import shlex

from cluster.manifests.source import (
    HOME,
    RAY_VERSION,
    SECRETS,
    SHARED,
    USER_ID,
    Cluster,
    ImageName,
    Machine,
    Site,
    WorkerGroup,
)
from cluster.submission import NOT_ON_SPOT, STOP_WAIT_S, digest, entry_point

Object = dict[str, object]

_CLAIM = "picpoint-data"
_ACCOUNT = "picpoint"
_GPU = "nvidia.com/gpu"
_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
# What Kubernetes calls `restricted`; the namespace lets nothing else run.
_CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def namespace(site: Site) -> list[Object]:
    """Give what clusters need around them: rules, an account, a volume."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": site.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {
            # Bind it to a cloud's role, and workers reach buckets without keys.
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(_ACCOUNT, site),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _metadata(_CLAIM, site),
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": f"{site.data_gib}Gi"}},
            },
        },
        _network_policy(site),
    ]


def ray_cluster(cluster: Cluster, site: Site) -> Object:
    """Give a cluster that stays and grows with what waits; jobs are sent by `picpoint submit`."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(cluster.name, site),
        "spec": cluster_spec(cluster, site),
    }


def pretrain_job(name: str, cluster: Cluster, site: Site, num_gpus: int) -> Object:
    """Give a pre-training run with a cluster of its own, which ends with it."""
    overrides = (
        f"data.shards={site.bucket}/shards",
        f"out={SHARED}/runs/{name}",
        f"checkpoints={site.bucket}/checkpoints/{name}",
        f"runtime.num_workers={num_gpus}",
        "runtime.use_gpu=true",
        "runtime.address=auto",
        "runtime.max_failures=3",
    )
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(name, site),
        "spec": {
            "entrypoint": shlex.join(entry_point("pretrain", overrides)),
            "entrypointNumCpus": 1,
            "runtimeEnvYAML": f'env_vars:\n  RAY_JOB_STOP_WAIT_TIME_S: "{STOP_WAIT_S}"\n',
            "metadata": {"job": "pretrain", "overrides_sha256": digest(overrides)},
            "submissionMode": "K8sJobMode",
            # The same command goes on from the newest checkpoint, on a new cluster.
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterPodTemplate": _submitter(cluster.image, site),
            "rayClusterSpec": cluster_spec(cluster, site),
        },
    }


def cluster_spec(cluster: Cluster, site: Site) -> Object:
    """Give the inside of a cluster, for RayCluster and RayJob alike."""
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": cluster.idle_timeout_s,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": _CONTAINER_SECURITY,
            "resources": _resources("500m", "1Gi"),
        },
        "headGroupSpec": {
            # No work on the head: when it swells or dies, all jobs do.
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0"} | _object_store(cluster.head),
            "template": _pod(
                "ray-head", cluster.image, cluster.head, site, ports=_PORTS, pool="cpu"
            ),
        },
        "workerGroupSpecs": [_worker_group(group, site) for group in cluster.groups],
    }


def _worker_group(group: WorkerGroup, site: Site) -> Object:
    spec: Object = {
        "groupName": group.name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": group.max_workers,
        "priority": group.priority,
        "rayStartParams": _object_store(group.machine),
        "template": _pod("ray-worker", group.image, group.machine, site, ports={}, pool=group.pool),
    }
    if group.is_spot:
        spec["labels"] = {key: value.removeprefix("!") for key, value in NOT_ON_SPOT.items()}
    return spec


def _pod(
    container: str, image: ImageName, machine: Machine, site: Site, ports: dict[str, int], pool: str
) -> Object:
    is_head = bool(ports)
    ray: Object = {
        "name": container,
        "image": site.image(image),
        "imagePullPolicy": "IfNotPresent",
        "resources": _resources(
            str(machine.cpus), f"{machine.memory_gib}Gi", f"{machine.disk_gib}Gi", machine.gpus
        ),
        "securityContext": _CONTAINER_SECURITY,
        "env": [{"name": "HOME", "value": HOME}],
        "volumeMounts": [
            {"name": "data", "mountPath": SHARED},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    if is_head:
        ray["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    else:
        ray["envFrom"] = [{"secretRef": {"name": SECRETS, "optional": True}}]
    spec: Object = {
        "securityContext": _POD_SECURITY,
        "enableServiceLinks": False,
        "nodeSelector": {"pool": pool},
        "tolerations": _tolerations(machine, pool),
        "terminationGracePeriodSeconds": 60,
        "containers": [ray],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": _CLAIM}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{machine.shm_gib}Gi"}},
        ],
    }
    if not is_head:
        # The head's account is KubeRay's, because the autoscaler beside it starts pods.
        spec |= {"serviceAccountName": _ACCOUNT, "automountServiceAccountToken": False}
    return {"spec": spec}


def _object_store(machine: Machine) -> dict[str, str]:
    """Keep Ray's objects to half of /dev/shm, or it would move them all to the disk."""
    return {"object-store-memory": str(machine.shm_gib * 2**30 // 2)}


def _tolerations(machine: Machine, pool: str) -> list[Object]:
    tolerated: list[Object] = []
    if machine.gpus:
        tolerated.append({"key": _GPU, "operator": "Exists", "effect": "NoSchedule"})
    if pool.startswith("spot"):
        tolerated.append(
            {"key": "pool", "operator": "Equal", "value": pool, "effect": "NoSchedule"}
        )
    return tolerated


def _submitter(image: ImageName, site: Site) -> Object:
    """Give the pod that sends a RayJob's entry point; KubeRay adds its command."""
    return {
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": _POD_SECURITY,
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": site.image(image),
                    "imagePullPolicy": "IfNotPresent",
                    "resources": _resources("500m", "1Gi"),
                    "securityContext": _CONTAINER_SECURITY,
                    "env": [{"name": "HOME", "value": HOME}],
                }
            ],
        }
    }


def _network_policy(site: Site) -> Object:
    """Let in only other pods of Ray, and KubeRay's operator and submitters where jobs are sent."""
    ray_pods: Object = {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}
    operator: Object = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": site.operator_namespace}
        }
    }
    submitters: Object = {"podSelector": {"matchLabels": {"ray.io/originated-from-crd": "RayJob"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata("picpoint-ray", site),
        "spec": {
            "podSelector": ray_pods,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": ray_pods}]},
                {
                    "from": [operator, submitters],
                    "ports": [{"protocol": "TCP", "port": _PORTS["dashboard"]}],
                },
            ],
        },
    }


def _resources(cpu: str, memory: str, disk: str = "2Gi", gpus: int = 0) -> Object:
    """Give requests and limits; equal, so that Ray counts what it really has."""
    amounts: Object = {"cpu": cpu, "memory": memory, "ephemeral-storage": disk}
    if gpus:
        amounts[_GPU] = str(gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _metadata(name: str, site: Site) -> Object:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "picpoint"}
    return {"name": name, "namespace": site.namespace, "labels": labels}
