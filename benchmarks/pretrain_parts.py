"""Where does the time of a pre-training step go, and what do two ranks and many GPUs make of it?

    python -m benchmarks.pretrain_parts            batch 32, a record
    python -m benchmarks.pretrain_parts --quick    batch 8, some two minutes

Demo shapes are rendered first. Then the same global batches are trained on one rank and on two,
each on one thread. A step is taken apart: waiting for the batch, copying it, image encoder, point
encoder, heads, loss (with what it gathers), backward pass, all-reduce of the gradients, optimiser
(with the BatchNorm sums). Wall time, medians over the rounds; the backward pass runs without
communication and the gradients are reduced after it, where a real step overlaps the two, so the
whole step is timed as well, as training makes it. `efficiency_2_ranks` compares these: half the
time would be 1; `efficiency_2_ranks_cpu` compares a rank's CPU time, because two ranks on two cores
that others use, too, wait for a core (`load_average`). The table for 8 to 512 GPUs is arithmetic
(benchmarks/simulated_ranks.py): on a CPU its compute time is this processor's, and `speedup` in its
second half a guess.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.pretrain import prepare
from benchmarks.record import Json, write_record
from benchmarks.simulated_ranks import Fabric, RankStep, table
from cluster.compose import compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from cluster.local_ranks import run_ranks
from picpoint.batch import move_batch
from picpoint.losses.gather import ddp_loss
from picpoint.losses.info_nce import pretraining_loss
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.train.pretrain import _open_run
from picpoint.train.settings import PretrainConfig
from picpoint.train.step import Run, train_step

_PACKAGES = ("torch", "numba", "numpy", "simplejpeg")
# A GPU's step against this processor's, in the second table.
_GUESSED_SPEEDUP = 100.0


class _Clock:
    """Sums wall time by part."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextlib.contextmanager
    def part(self, name: str) -> Generator[None]:
        """Time what is done inside; on a GPU until it is finished."""
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small, in some two minutes")
    quick = parser.parse_args().quick
    batch, rounds = (8, 2) if quick else (32, 7)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), num_shapes=batch)
        results = measure(Path(folder), batch, rounds)
    if not quick:
        print(f"wrote {write_record('pretrain_parts', results, _PACKAGES)}")
    print(json.dumps(results))


def measure(folder: Path, batch: int, rounds: int) -> dict[str, Json]:
    """Take steps apart on one rank and on two, and reckon what many would do."""
    told = {number: _on_ranks(folder, batch, rounds, number) for number in (1, 2)}
    for number, each in told.items():
        parts = "  ".join(f"{name} {1e3 * s:.1f}" for name, s in each["parts_s"].items())
        print(f"{number} rank(s): step {1e3 * each['step_s']:.1f} ms; taken apart: {parts}")
    alone = told[1]
    step = RankStep(compute_s=alone["step_s"], shapes=batch, **alone["sizes"])
    return {
        "batch": batch,
        "rounds": rounds,
        "device": alone["device"],
        "step_s": {str(number): each["step_s"] for number, each in told.items()},
        "parts_s": {str(number): each["parts_s"] for number, each in told.items()},
        "load_average": os.getloadavg()[0],
        "efficiency_2_ranks": told[1]["step_s"] / (2 * told[2]["step_s"]),
        "efficiency_2_ranks_cpu": told[1]["cpu_s"] / (2 * told[2]["cpu_s"]),
        "simulated": table(step, Fabric()),
        "simulated_with_guessed_speedup": table(step, Fabric(speedup=_GUESSED_SPEEDUP)),
    }


def _on_ranks(folder: Path, batch: int, rounds: int, num_ranks: int) -> dict[str, Any]:
    config = _config(folder, batch, rounds)
    work = functools.partial(_rank, config, folder / f"on-{num_ranks}", rounds)
    (folder / f"on-{num_ranks}").mkdir()
    backend = "nccl" if torch.cuda.device_count() >= num_ranks else "gloo"
    run_ranks(work, num_ranks, backend, timeout_s=600, max_failures=0)
    return json.loads((folder / f"on-{num_ranks}" / "told.json").read_text())


def _config(folder: Path, batch: int, rounds: int) -> PretrainConfig:
    overrides = [
        *(f"out={folder / 'out'}", f"data.shards={folder / 'shards'}", "data.holdout.num_folds=0"),
        *("precision=fp32", "image_encoder.precision=float32", f"epochs={4 * rounds + 8}"),
        *(f"global_batch={batch}", f"ghost_batch={batch // 2}"),
    ]
    return load_job(PretrainJob, compose_config("pretrain", overrides)).training


def _rank(config: PretrainConfig, folder: Path, rounds: int, rank: int) -> None:
    """Be a rank: whole steps and steps in parts by turns; rank 0 writes down the medians."""
    torch.set_num_threads(1)
    is_on_gpu = torch.cuda.device_count() > rank
    device = torch.device("cuda", rank) if is_on_gpu else torch.device("cpu")
    run = _open_run(config, folder, device, "never")
    whole: list[float] = []
    cpu: list[float] = []
    parts: list[dict[str, float]] = []
    with contextlib.closing(run.batches):
        for number in range(rounds + 1):
            clock, started_cpu = _Clock(device), time.process_time()
            with clock.part("step"):
                train_step(run, next(run.batches), stop=False)
            used_cpu = time.process_time() - started_cpu
            apart = step_in_parts(run)
            if number:  # the first one compiles
                whole.append(clock.seconds["step"])
                cpu.append(used_cpu)
                parts.append(apart)
    if rank == 0:
        told = {
            "device": str(device),
            "step_s": statistics.median(whole),
            "cpu_s": statistics.median(cpu),
            "parts_s": {n: statistics.median(each[n] for each in parts) for n in parts[0]},
            "sizes": sizes_of(run),
        }
        (folder / "told.json").write_text(json.dumps(told))


def step_in_parts(run: Run) -> dict[str, float]:
    """Make one update as `train_step` does, with its communication apart; give the seconds."""
    clock = _Clock(run.device)
    optimizer = run.state.optimizer
    optimizer.zero_grad(set_to_none=True)
    with clock.part("data wait"):
        waiting = next(run.batches)
    with clock.part("copy"):
        batch = move_batch(waiting, run.device)
    with clock.part("image encoder"):
        image = run.teacher.features(batch)
    with _without_communication(run.model):
        with clock.part("forward"), _timed(run.state.model.point_encoder, clock):
            embeddings = run.model(batch, image)
        with clock.part("loss"):
            terms = pretraining_loss(embeddings, run.config.loss, run.rows_per_rank)
            total = ddp_loss(terms.total)
        with clock.part("backward"):
            total.backward()
    with clock.part("all-reduce"):
        _reduce_gradients(run.state.model)
    with clock.part("optimiser"):
        optimizer.step()
        update_running_statistics(run.state.model)
    seconds = clock.seconds
    seconds["heads"] = seconds.pop("forward") - seconds["point encoder"]
    run.state.samples_seen += run.config.global_batch
    return seconds


def _without_communication(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Give the context in which gradients stay where they were computed."""
    is_ddp = isinstance(model, DistributedDataParallel)
    return model.no_sync() if is_ddp else contextlib.nullcontext()


@contextlib.contextmanager
def _timed(module: nn.Module, clock: _Clock) -> Generator[None]:
    """Time one module's forward pass inside another's."""
    forward = module.forward

    def timed(*arguments: object) -> object:
        with clock.part("point encoder"):
            return forward(*arguments)

    module.forward = timed
    try:
        yield
    finally:
        module.forward = forward


def _reduce_gradients(model: nn.Module) -> None:
    """Average the gradients over ranks, in one message."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def sizes_of(run: Run) -> dict[str, int]:
    """Give what a rank sends to others, in bytes, and what rows of embeddings are made of."""
    model = run.state.model
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    return {
        "views": run.config.data.views_per_step,
        "latent_width": run.config.heads.latent_width,
        "gradient_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "statistics_bytes": sum(8 * (2 * norm.num_features + 1) for norm in norms),
    }


if __name__ == "__main__":
    main()
