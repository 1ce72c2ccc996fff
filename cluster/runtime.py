"""Where do the ranks of a run live? Processes of this machine, or workers of Ray Train."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch

from cluster.cores import usable_cores
from cluster.local_ranks import run_ranks
from picpoint.train.notice import Notice, no_notice


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where a run's ranks live.

    Attributes:
        name: `local` starts processes; `ray` uses Ray Train.
        num_workers: number of ranks; not looked at where `max_workers` is set.
        use_gpu: one GPU for each rank; `auto` where this machine has CUDA.
        address: Ray cluster to join; `local` starts one that ends with the run.
        threads_per_worker: CPU threads of each rank; 0 shares a machine's cores evenly among the
            run's ranks on it, or the number in OMP_NUM_THREADS (`local`).
        min_workers: ranks that are enough to begin with, and to go on with when machines are lost
            (`ray` only, with `max_workers`).
        max_workers: most ranks, of as many as the cluster has room for (`ray` only); 0 for a fixed
            number. The objective is the same for any number, which changes only at a restart.
        resize_every_s: how often it is looked whether there is room for more ranks, within
            `max_workers`; a change begins all ranks anew from the newest checkpoint.
        max_failures: how often the run may lose ranks and go on from its newest checkpoint. What is
            wrong with the settings or the data ends it at once; a machine that is taken back with
            notice (preempted, on Ray) does not count. A single local rank is the command's own
            process.
        timeout_s: longest wait of a rank for the others; more than a minute, for which rank 0 may
            wait for a checkpoint.
    """

    name: Literal["local", "ray"] = "local"
    num_workers: int = 1
    use_gpu: bool | Literal["auto"] = "auto"
    address: str = "local"
    threads_per_worker: int = 0
    min_workers: int = 0
    max_workers: int = 0
    resize_every_s: float = 60.0
    max_failures: int = 3
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"runtime.num_workers={self.num_workers}: there is at least one rank")
        if (self.min_workers, self.max_workers) != (0, 0):
            if not 1 <= self.min_workers <= self.max_workers:
                raise ValueError(
                    f"runtime.min_workers={self.min_workers}, runtime.max_workers="
                    f"{self.max_workers}: give both, at least 1 and the first not above the "
                    "second; or neither, for runtime.num_workers ranks"
                )
            if self.name == "local":
                raise ValueError(
                    f"runtime.max_workers={self.max_workers}: on one machine the number of ranks "
                    "is fixed; use runtime.num_workers, or runtime=ray"
                )
        if self.max_failures < 0 or not min(self.timeout_s, self.resize_every_s) > 0:
            raise ValueError(
                f"runtime.max_failures={self.max_failures}, runtime.timeout_s={self.timeout_s}, "
                f"runtime.resize_every_s={self.resize_every_s}: must be 0 or more, and above 0"
            )

    @property
    def is_elastic(self) -> bool:
        """Whether the number of ranks may change during the run."""
        return self.max_workers > 0

    @property
    def most_workers(self) -> int:
        """How many ranks there may be."""
        return self.max_workers or self.num_workers


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

    def train(self, device: torch.device, notice: Notice) -> Iterator[object]:
        """Run this rank's part, step by step; asks whether machines will be taken."""
        ...

    def with_absolute_paths(self) -> Self:
        """Name every folder as it is named from any other; Ray's workers run in their own."""
        ...


def run_on_local_processes(job: RankedJob) -> None:
    """Run one process per rank; a single rank runs in this process."""
    num_workers = job.runtime.num_workers
    if num_workers == 1:
        _set_threads(job.runtime, _allowed_cores(), 1)
        _train(job, torch.device("cuda" if _on_gpu(job.runtime) else "cpu"))
        return
    backend = "nccl" if _on_gpu(job.runtime) else "gloo"
    work = functools.partial(_local_rank, job)
    run_ranks(work, num_workers, backend, job.runtime.timeout_s, job.runtime.max_failures)


def run_on_ray(job: RankedJob) -> None:
    """Run the ranks as Ray Train workers, on a cluster that is joined or started for the run."""
    from cluster.ray_ranks import run_ray_ranks

    runtime = job.runtime
    run_ray_ranks(_ray_rank, job.with_absolute_paths(), runtime, use_gpu=_on_gpu(runtime))


def resume_from(resume: str | bool) -> str:
    """Read a job's `resume`: true and false stand for `auto` and `never`; else where from."""
    if isinstance(resume, bool):
        return "auto" if resume else "never"
    return resume


def absolute_place(place: str) -> str:
    """Name a folder as it is named from any other; a URL is."""
    return place if "://" in place else str(Path(place).resolve())


def _ray_rank(settings: dict[str, RankedJob]) -> None:
    import ray.train
    import ray.train.torch

    job = settings["job"]
    ranks_here = ray.train.get_context().get_local_world_size()
    _set_threads(job.runtime, usable_cores(), ranks_here)
    _train(job, ray.train.torch.get_device(), _machines_going)


def _machines_going() -> frozenset[str]:
    """Name the machines of the run that Ray was told it will lose; waits for all ranks."""
    import ray.train

    told = ray.train.get_preemption_info()
    return frozenset(told.preempted_node_ids) if told else frozenset()


def _local_rank(job: RankedJob, rank: int) -> None:
    _set_threads(job.runtime, _allowed_cores(), job.runtime.num_workers)
    _train(job, torch.device("cuda", rank) if _on_gpu(job.runtime) else torch.device("cpu"))


def _train(job: RankedJob, device: torch.device, notice: Notice = no_notice) -> None:
    for _ in job.train(device, notice):
        pass  # the log file tells how far the run is


def _on_gpu(runtime: RuntimeConfig) -> bool:
    return torch.cuda.is_available() if runtime.use_gpu == "auto" else runtime.use_gpu


def _allowed_cores() -> int:
    """Count the cores of this machine that this process may keep busy.

    OMP_NUM_THREADS tells a trial of a study how many are its own. Of a rank on Ray it says nothing:
    Ray sets it to 1 for each CPU that the rank reserves.
    """
    cores, told = usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(told)) if told.isdigit() and int(told) else cores


def _set_threads(runtime: RuntimeConfig, cores: int, ranks_here: int) -> None:
    torch.set_num_threads(runtime.threads_per_worker or max(1, cores // ranks_here))
