"""What does a cluster for picpoint consist of? The description that all manifests are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PICPOINT_VERSION = "0.1.0"
RAY_VERSION = "2.60.0"

# Who runs in the images of cluster/images.
USER_ID = 1000
HOME = "/home/picpoint"
# Where every machine sees the same files.
SHARED = "/data"
# Holds what no command line may: keys of buckets, of the Hub, of trackers.
SECRETS = "picpoint-secrets"

# Each is cluster/images/NAME.Dockerfile.
ImageName = Literal["train-cpu", "train-cuda", "render"]
Pool = Literal["cpu", "gpu", "spot", "spot-gpu"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node offers to Ray.

    Attributes:
        cpus: cores.
        memory_gib: memory, which /dev/shm is part of.
        gpus: NVIDIA GPUs.
        shm_gib: of it, for objects and NCCL.
        disk_gib: for logs, spilled objects and caches.
    """

    cpus: int
    memory_gib: int
    gpus: int = 0
    shm_gib: int = 2
    disk_gib: int = 20


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Machines of one kind, which the autoscaler starts and ends.

    Attributes:
        name: shown by Ray and Kubernetes.
        image: what runs on them.
        machine: what each offers.
        max_workers: of them at once; there are none while nothing waits.
        pool: nodes that they run on; those of spot pools may be taken away at any time.
        priority: higher is started first where several would do.
    """

    name: str
    image: ImageName
    machine: Machine
    max_workers: int
    pool: Pool
    priority: int = 0

    @property
    def is_spot(self) -> bool:
        """Nodes may be taken away."""
        return self.pool in ("spot", "spot-gpu")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A head without work, and groups of workers.

    Attributes:
        name: of the cluster.
        image: of the head.
        head: its machine.
        groups: of workers.
        idle_timeout_s: after which a worker without work is ended.
    """

    name: str
    image: ImageName
    head: Machine
    groups: tuple[WorkerGroup, ...]
    idle_timeout_s: int = 300


@dataclass(frozen=True, slots=True)
class Site:
    """What differs from place to place; the names of example.com are to be replaced.

    Attributes:
        registry: of the images.
        namespace: on Kubernetes.
        operator_namespace: where KubeRay's operator runs.
        data_gib: size of the volume that all machines share.
        bucket: URL of shards and checkpoints.
        nfs: server and path of the shared files, for clusters of virtual machines.
        ssh_from: addresses that may reach the head of such a cluster.
        aws_region: of `ray up`.
        aws_instance_profile: gives machines their rights, so that they need no keys.
        gcp_region: likewise.
        gcp_project: likewise.
    """

    registry: str = "registry.example.com/picpoint"
    namespace: str = "picpoint"
    operator_namespace: str = "kuberay-system"
    data_gib: int = 1024
    bucket: str = "s3://picpoint-example"
    nfs: str = "nfs.example.com:/picpoint"
    ssh_from: str = "203.0.113.0/24"
    aws_region: str = "us-west-2"
    aws_instance_profile: str = "arn:aws:iam::123456789012:instance-profile/picpoint"
    gcp_region: str = "us-central1"
    gcp_project: str = "picpoint-example"

    def image(self, name: ImageName) -> str:
        """Name an image as a node pulls it."""
        return f"{self.registry}/{name}:{PICPOINT_VERSION}"


@dataclass(frozen=True, slots=True)
class CloudTypes:
    """Which machines of a cloud stand for ours; keys are the groups' names and `head`."""

    aws: Mapping[str, str] = field(
        default_factory=lambda: {
            "head": "m6i.xlarge",
            "cpu": "m6i.2xlarge",
            "gpu": "g6.2xlarge",
            "render-spot": "c6i.4xlarge",
        }
    )
    gcp: Mapping[str, str] = field(
        default_factory=lambda: {
            "head": "n2-standard-4",
            "cpu": "n2-standard-8",
            "gpu": "g2-standard-8",
            "render-spot": "n2-standard-16",
        }
    )


HEAD = Machine(cpus=2, memory_gib=8)
CPU_GROUP = WorkerGroup("cpu", "train-cpu", Machine(8, 32), max_workers=4, pool="cpu")
GPU_GROUP = WorkerGroup(
    "gpu", "train-cuda", Machine(8, 32, gpus=1, shm_gib=8), max_workers=8, pool="gpu"
)
# Renders on CPUs: what is lost with a machine is at most one shard, which another makes again.
SPOT_GROUP = WorkerGroup(
    "render-spot", "train-cpu", Machine(16, 32), max_workers=16, pool="spot", priority=10
)
# The jobs of every command but rendering on GPUs.
TRAINING = Cluster("picpoint", "train-cpu", HEAD, (CPU_GROUP, GPU_GROUP, SPOT_GROUP))
# Drawing with Kaolin, which wants another torch than training: a cluster of its own, and shards are
# all that passes between the two.
RENDERING = Cluster(
    "picpoint-render",
    "render",
    HEAD,
    (
        WorkerGroup("cpu", "render", Machine(4, 16), max_workers=1, pool="cpu"),
        WorkerGroup("gpu-spot", "render", Machine(8, 32, gpus=1), max_workers=8, pool="spot-gpu"),
    ),
)
