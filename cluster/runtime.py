"""Where do the ranks of a run live? Processes of this machine, or workers of Ray Train."""

import dataclasses
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from picpoint.train.pretrain import pretrain

if TYPE_CHECKING:
    from cluster.jobs.pretrain import PretrainJob


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where a run's ranks live.

    Attributes:
        name: `local` starts processes; `ray` uses Ray Train.
        num_workers: number of ranks.
        use_gpu: one GPU for each rank; `auto` where this machine has CUDA.
        address: Ray cluster to join; `local` starts one that ends with the run.
        threads_per_worker: CPU threads of each rank; 0 shares the machine's cores evenly.
    """

    name: Literal["local", "ray"] = "local"
    num_workers: int = 1
    use_gpu: bool | Literal["auto"] = "auto"
    address: str = "local"
    threads_per_worker: int = 0


def run_on_local_processes(job: "PretrainJob") -> None:
    """Run one process per rank; a single rank runs in this process."""
    num_workers = job.runtime.num_workers
    if num_workers == 1:
        _set_threads(job.runtime)
        _train(job, torch.device("cuda" if _on_gpu(job.runtime) else "cpu"))
        return
    # Children inherit the mask of this thread: Ctrl-C is the parent's business.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    spawn(_local_rank, args=(job, _free_port()), nprocs=num_workers, join=True)


def run_on_ray(job: "PretrainJob") -> None:
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


def _fit(job: "PretrainJob") -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = _on_gpu(job.runtime)
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"job": _with_absolute_paths(job)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=300),
        scaling_config=ScalingConfig(num_workers=job.runtime.num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="pretrain",
            storage_path=str(Path(job.out).resolve() / "ray"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


def _with_absolute_paths(job: "PretrainJob") -> "PretrainJob":
    """Ray workers run in a folder of their own."""
    resume = job.resume_from
    return dataclasses.replace(
        job,
        out=_absolute(job.out),
        data=dataclasses.replace(job.data, shards=_absolute(job.data.shards)),
        checkpoints=_absolute(job.checkpoints) if job.checkpoints else "",
        resume=resume if resume in ("auto", "never") else _absolute(resume),
    )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).resolve())


def _ray_rank(settings: dict[str, "PretrainJob"]) -> None:
    import ray.train
    import ray.train.torch

    job = settings["job"]
    _set_threads(job.runtime)
    _train(job, ray.train.torch.get_device())


def _local_rank(rank: int, job: "PretrainJob", port: int) -> None:
    _set_threads(job.runtime)
    use_gpu = _on_gpu(job.runtime)
    dist.init_process_group(
        "nccl" if use_gpu else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=job.runtime.num_workers,
    )
    try:
        _train(job, torch.device("cuda", rank) if use_gpu else torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def _train(job: "PretrainJob", device: torch.device) -> None:
    for _ in pretrain(job.training, Path(job.out), device, job.resume_from):
        pass  # the log file tells how far the run is


def _on_gpu(runtime: RuntimeConfig) -> bool:
    return torch.cuda.is_available() if runtime.use_gpu == "auto" else runtime.use_gpu


def _set_threads(runtime: RuntimeConfig) -> None:
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(runtime.threads_per_worker or max(1, cores // runtime.num_workers))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
