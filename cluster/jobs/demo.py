"""`picpoint demo`: render, pre-train, evaluate, report; small, with nothing left out.

Each seed has its own initial weights, its own order of the shapes, and its own held-out fold.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs import evaluate, pretrain, render, report
from cluster.jobs.evaluate import EvaluateJob
from cluster.jobs.pretrain import PretrainJob
from cluster.jobs.render import RenderJob
from cluster.jobs.report import ReportJob
from picpoint.report.page import PAGE_FILE


@dataclass(frozen=True, slots=True)
class DemoJob:
    """The four jobs and how often they are repeated.

    Attributes:
        out: folder that everything goes to.
        seeds: how many seeds are pre-trained.
        render: meshes -> shards; its `out` is set by the demo.
        pretrain: shards -> checkpoints; seed, fold, shards and `out` are set by the demo.
        evaluate: checkpoints -> results.json.
        report: results.json -> the page and its tables.
    """

    out: str
    seeds: int
    render: RenderJob
    pretrain: PretrainJob
    evaluate: EvaluateJob
    report: ReportJob

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds}: at least 1")
        if self.pretrain.seed or self.pretrain.data.holdout.fold or self.evaluate.runs:
            raise ValueError(
                "pretrain.seed, pretrain.data.holdout.fold and evaluate.runs are set by the demo; "
                "choose how many with seeds=N"
            )


def describe(job: DemoJob) -> list[str]:
    """Say what would be read, run and written."""
    return [
        *render.describe(job.render),
        f"train  {job.seeds} seed(s), {job.pretrain.epochs} epochs each, into {job.out}/seed-N",
        f"write  {job.out}/{evaluate.RESULTS_FILE} and {job.report.out}/{PAGE_FILE}",
    ]


def run(job: DemoJob) -> None:
    """Take the whole road; what an earlier, interrupted call finished is kept."""
    started = time.perf_counter()
    manifest = render.run(job.render)
    print(f"{manifest.num_samples} shapes, {len(manifest.rejects)} rejected: {manifest.url}")
    runs = [_of_seed(job, seed) for seed in range(job.seeds)]
    for of_seed in runs:
        pretrain.run(of_seed)
    evaluation = dataclasses.replace(job.evaluate, runs=tuple(of_seed.out for of_seed in runs))
    evaluate.run(evaluation)
    page = report.run(job.report)
    print(f"{time.perf_counter() - started:.0f} s in all; open {page}")


def _of_seed(job: DemoJob, seed: int) -> PretrainJob:
    holdout = dataclasses.replace(job.pretrain.data.holdout, fold=seed)
    return dataclasses.replace(
        job.pretrain,
        seed=seed,
        data=dataclasses.replace(job.pretrain.data, holdout=holdout),
        out=str(Path(job.out) / f"seed-{seed}"),
    )
