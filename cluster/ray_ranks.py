"""How do the ranks of a run live on Ray? As workers of Ray Train, begun anew where they are lost.

Ray Train would begin anew after any error; here each set of workers is one `fit()`, and what is
wrong with the settings or the data ends the run as it does on one machine. Within a `fit()` Ray
itself changes the number of workers (between `min_workers` and `max_workers`), waits for machines,
and moves on from those that are taken back with notice.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.local_ranks import RankDiedError, begin_anew, rank_of_cause

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from cluster.runtime import RankedJob, RuntimeConfig

# How often Ray Train asks its workers whether they live, and how soon it gives one up.
_WATCHING_S = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
}
# How long it waits for room for all workers before it counts machines again. An elastic run asks
# for no more than there are; but one that has just died counts for up to half a minute.
_WAIT_FOR_ROOM = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_ELASTIC_WAIT_S, _FIXED_WAIT_S = "15", "300"

RayWork = Callable[[dict[str, "RankedJob"]], None]


def run_ray_ranks(work: RayWork, job: "RankedJob", runtime: "RuntimeConfig", use_gpu: bool) -> None:
    """Run a function on every rank, on a cluster that is joined or started for the run.

    Args:
        work: is given {"job": job} in a worker, and must go on from where it was.
        job: the run; its paths are absolute.
        runtime: how many ranks, and how many sets of them may be lost.
        use_gpu: one GPU for each rank.

    Raises:
        RankDiedError: more were lost.
        Exception: what `work` raised, or Ray, where it is no matter of lost ranks.
    """
    import ray

    wait_s = _ELASTIC_WAIT_S if runtime.is_elastic else _FIXED_WAIT_S
    with (
        _by_default(_WATCHING_S | {_WAIT_FOR_ROOM: wait_s}),
        # A started cluster dies with the thread that started it, so it is shut down in this one.
        ray.init(
            address=runtime.address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        ),
    ):
        begin_anew(lambda: _fit(_trainer(work, job, runtime, use_gpu)), runtime.max_failures)


@contextmanager
def _by_default(variables: Mapping[str, str]) -> Generator[None]:
    """Set those environment variables that the user has not set, for the time of a run."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _trainer(
    work: RayWork, job: "RankedJob", runtime: "RuntimeConfig", use_gpu: bool
) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=max(1, int(runtime.timeout_s))
        ),
        scaling_config=scaling_of(runtime, use_gpu),
        run_config=RunConfig(
            name=job.command,
            storage_path=str(Path(job.out) / "ray"),
            # Errors of workers are ours to judge. An elastic run waits for machines for ever, one
            # of fixed size as often as ranks may be lost; those taken back with notice are nobody's
            # fault.
            failure_config=FailureConfig(
                max_failures=0,
                controller_failure_limit=-1 if runtime.is_elastic else runtime.max_failures,
                max_preemption_failures=-1,
            ),
        ),
    )


def scaling_of(runtime: "RuntimeConfig", use_gpu: bool) -> "ScalingConfig":
    """Give how many workers Ray Train is to run."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=(runtime.min_workers, runtime.max_workers)
        if runtime.is_elastic
        else runtime.num_workers,
        use_gpu=use_gpu,
        elastic_resize_monitor_interval_s=runtime.resize_every_s,
    )


def _fit(trainer: "TorchTrainer") -> BaseException | None:
    """Run a set of workers; give the failure of a rank that ended it, if one did."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    try:
        trainer.fit()
    except WorkerGroupError as error:
        return told_plainly(error, error.worker_failures)
    return None


def told_plainly(error: BaseException, worker_failures: dict[int, Exception]) -> BaseException:
    """Find what ended a set of workers: what one of them raised, or that it is gone.

    Args:
        error: what Ray tells, many lines long; it stays as the cause.
        worker_failures: of each rank that failed: an error of `work`, perhaps wrapped, or one of
            Ray's own.
    """
    failures: list[BaseException] = []
    for rank, failure in worker_failures.items():
        raised = getattr(failure, "_base_exc", failure)
        if type(raised).__module__.partition(".")[0] == "ray":
            raised = RankDiedError(
                f"rank {rank} was lost on Ray: its process or its machine is gone, or is silent"
            )
        failures.append(raised)
    cause = min(failures, key=rank_of_cause)
    cause.__cause__ = error
    return cause
