"""Where do the ranks of a run live? Processes of this machine, or workers of Ray Train."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch

from cluster.local_ranks import run_ranks

# How often Ray Train asks its workers whether they live, and how soon it gives one up; how long
# they may take to start.
_WATCHING_S = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where a run's ranks live.

    Attributes:
        name: `local` starts processes; `ray` uses Ray Train.
        num_workers: number of ranks.
        use_gpu: one GPU for each rank; `auto` where this machine has CUDA.
        address: Ray cluster to join; `local` starts one that ends with the run.
        threads_per_worker: CPU threads of each rank; 0 shares the machine's cores evenly.
        min_workers: ranks that are enough to go on with when machines are lost (`ray` only); 0 for
            `num_workers`.
        max_failures: how often the run may lose ranks and go on from its newest checkpoint. On Ray
            any error of a rank counts; a single local rank is the command's own process.
        timeout_s: longest wait of a rank for the others.
    """

    name: Literal["local", "ray"] = "local"
    num_workers: int = 1
    use_gpu: bool | Literal["auto"] = "auto"
    address: str = "local"
    threads_per_worker: int = 0
    min_workers: int = 0
    max_failures: int = 3
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_workers <= self.num_workers or self.num_workers < 1:
            raise ValueError(
                f"runtime.min_workers={self.min_workers}, runtime.num_workers={self.num_workers}: "
                "there is at least one rank, and the first is not above the second"
            )
        if self.max_failures < 0 or not self.timeout_s > 0:
            raise ValueError(
                f"runtime.max_failures={self.max_failures}, runtime.timeout_s={self.timeout_s}: "
                "must be 0 or more, and above 0"
            )


class RankedJob(Protocol):
    """A job that runs on one rank or several; a dataclass, which is sent to them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def command(self) -> str:
        """Which command runs it."""
        ...

    @property
    def out(self) -> str:
        """Folder of the run."""
        ...

    @property
    def runtime(self) -> RuntimeConfig:
        """Where its ranks live."""
        ...

    def train(self, device: torch.device) -> Iterator[object]:
        """Run this rank's part, step by step."""
        ...

    def with_absolute_paths(self) -> Self:
        """Name every folder as it is named from any other; Ray's workers run in their own."""
        ...


def run_on_local_processes(job: RankedJob) -> None:
    """Run one process per rank; a single rank runs in this process."""
    num_workers = job.runtime.num_workers
    if num_workers == 1:
        _set_threads(job.runtime)
        _train(job, torch.device("cuda" if _on_gpu(job.runtime) else "cpu"))
        return
    backend = "nccl" if _on_gpu(job.runtime) else "gloo"
    work = functools.partial(_local_rank, job)
    run_ranks(work, num_workers, backend, job.runtime.timeout_s, job.runtime.max_failures)


def run_on_ray(job: RankedJob) -> None:
    """Run the ranks as Ray Train workers, on a cluster that is joined or started for the run."""
    import ray

    # A started cluster dies with the thread that started it, so it is shut down in this one.
    with ray.init(
        address=job.runtime.address,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    ):
        _fit(job)


def _fit(job: RankedJob) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    runtime, use_gpu = job.runtime, _on_gpu(job.runtime)
    num_workers = runtime.num_workers
    if runtime.min_workers:
        num_workers = (runtime.min_workers, runtime.num_workers)
    for name, seconds in _WATCHING_S.items():
        os.environ.setdefault(name, seconds)
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"job": job.with_absolute_paths()},
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=max(1, int(runtime.timeout_s))
        ),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=job.command,
            storage_path=str(Path(job.out).resolve() / "ray"),
            failure_config=FailureConfig(max_failures=runtime.max_failures),
        ),
    )
    trainer.fit()


def absolute_place(place: str) -> str:
    """Name a folder as it is named from any other; a URL is."""
    return place if "://" in place else str(Path(place).resolve())


def _ray_rank(settings: dict[str, RankedJob]) -> None:
    import ray.train
    import ray.train.torch

    job = settings["job"]
    _set_threads(job.runtime)
    _train(job, ray.train.torch.get_device())


def _local_rank(job: RankedJob, rank: int) -> None:
    _set_threads(job.runtime)
    _train(job, torch.device("cuda", rank) if _on_gpu(job.runtime) else torch.device("cpu"))


def _train(job: RankedJob, device: torch.device) -> None:
    for _ in job.train(device):
        pass  # the log file tells how far the run is


def _on_gpu(runtime: RuntimeConfig) -> bool:
    return torch.cuda.is_available() if runtime.use_gpu == "auto" else runtime.use_gpu


def _set_threads(runtime: RuntimeConfig) -> None:
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(runtime.threads_per_worker or max(1, cores // runtime.num_workers))
