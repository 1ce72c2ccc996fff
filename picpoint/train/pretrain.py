"""The pre-training loop: clouds and pictures in, checkpoints and a log out.

It runs on every rank of a torch.distributed group, or alone. It knows no Ray: the caller drives it
as a generator of log lines. The run's folder holds

    metrics.jsonl          one line per log step, written by rank 0
    checkpoints/           see picpoint/train/checkpoint.py
    STOP                   made by anyone who wants the run to save itself and end
"""

import contextlib
import logging
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from picpoint.batch import Embeddings, LossTerms, PairBatch, move_batch
from picpoint.data.pairs import training_batches
from picpoint.data.prefetch import prefetch
from picpoint.encoders.image import ImageEncoder
from picpoint.losses.gather import ddp_loss, num_ranks, this_rank
from picpoint.losses.info_nce import pretraining_loss
from picpoint.model import PretrainModel
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.train.checkpoint import CheckpointError, restore, save_checkpoint
from picpoint.train.collapse import EmbeddingHealth, measure_embeddings
from picpoint.train.log import StepReport, open_log, write_report
from picpoint.train.settings import (
    JsonValue,
    PretrainConfig,
    plan_run,
    rows_of_ranks,
    run_settings,
)
from picpoint.train.state import TrainState, initial_state, learning_rate
from shards.reader import PAIRING, ShardReader

logger = logging.getLogger(__name__)

STOP_FILE = "STOP"


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is not a number; the update that would follow was not made."""


@dataclass(frozen=True, slots=True)
class _Totals:
    """What all ranks agree on after each backward pass, over the global batch."""

    loss: float
    local: float
    pooled: float
    local_top1: float
    pooled_top1: float
    num_corrupt: int
    stop: bool
    grad_norm: float


@dataclass(frozen=True, slots=True)
class _Pace:
    """How it went since the run was (re)started."""

    num_steps: int
    num_corrupt: int
    elapsed_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What a step needs and no step changes, but for the state."""

    config: PretrainConfig
    settings: dict[str, JsonValue]
    state: TrainState
    model: nn.Module
    image_encoder: ImageEncoder
    batches: Generator[PairBatch]
    rank: int
    rows_per_rank: tuple[int, ...]
    total_steps: int
    device: torch.device


def pretrain(
    config: PretrainConfig, run_dir: Path, device: torch.device, resume: bool
) -> Iterator[StepReport]:
    """Run or continue a pre-training run on this rank, one report per log step.

    Args:
        config: the run.
        run_dir: its folder; shared by all ranks.
        device: where this rank computes.
        resume: continue from the newest whole checkpoint of `run_dir`; False starts anew and
            refuses a folder that holds checkpoints.

    Raises:
        CheckpointError: `run_dir` holds checkpoints of other settings, or any without `resume`, or
            ranks found different ones.
        NonFiniteLossError: a loss or a gradient was not a number.
        ShardError: the shards cannot be read.
        MissingWeightsError: the image encoder's weights cannot be found.
    """
    run = _open_run(config, run_dir, device, resume)
    state, checkpoints = run.state, run_dir / "checkpoints"
    with contextlib.closing(run.batches), open_log(run_dir, run.rank, state.samples_seen) as log:
        first_step = step = state.samples_seen // config.global_batch
        started, waited_s, num_corrupt = time.perf_counter(), 0.0, 0
        stopped = warned = False
        while step < run.total_steps and not stopped:
            asked = time.perf_counter()
            batch = next(run.batches)
            waited_s += time.perf_counter() - asked

            embeddings, totals = train_step(run, batch, stop_wanted(run_dir, run.rank))
            step += 1
            num_corrupt += totals.num_corrupt
            stopped = totals.stop
            last = stopped or step == run.total_steps
            if run.rank == 0 and (last or step % config.checkpoint_every == 0):
                keep = config.keep_checkpoints
                save_checkpoint(checkpoints, step, state.state_dict(), run.settings, keep)
            if last or step % config.log_every == 0:
                health = measure_embeddings(embeddings, run.rows_per_rank)
                if health.is_collapse and run.rank == 0 and not warned:
                    _warn_of_collapse(health, step)
                    warned = True
                elapsed_s = time.perf_counter() - started
                pace = _Pace(step - first_step, num_corrupt, elapsed_s, waited_s)
                report = _report(run, totals, health, pace)
                write_report(log, report)
                yield report


def train_step(run: _Run, batch: PairBatch, stop: bool) -> tuple[Embeddings, _Totals]:
    """Make one update from this rank's part of a global batch.

    Raises:
        NonFiniteLossError: the loss of the global batch or the norm of its gradient is not a
            number; nothing was updated.
    """
    config, state = run.config, run.state
    step = state.samples_seen // config.global_batch
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config.optim, step / run.total_steps)
    batch = move_batch(batch, run.device)
    image = run.image_encoder(batch.pictures)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        embeddings: Embeddings = run.model(batch, image)
    terms = pretraining_loss(embeddings, config.loss, run.rows_per_rank)
    state.optimizer.zero_grad(set_to_none=True)
    ddp_loss(terms.total).backward()
    totals = _sum_over_ranks(terms, state.model, batch, stop)
    for figure, value in (("loss", totals.loss), ("gradient norm", totals.grad_norm)):
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the {figure} is {value} at step {step}; nothing was updated and the last "
                "checkpoint is good: lower optim.lr, or set precision=fp32 (this rank's samples: "
                f"{' '.join(filter(None, batch.keys))})"
            )
    state.optimizer.step()
    update_running_statistics(state.model)
    state.samples_seen += config.global_batch
    return embeddings, totals


def stop_wanted(run_dir: Path, rank: int) -> bool:
    """Whether someone asked the run to save itself and end; rank 0 looks, all ranks obey."""
    return rank == 0 and (run_dir / STOP_FILE).exists()


def _open_run(config: PretrainConfig, run_dir: Path, device: torch.device, resume: bool) -> _Run:
    """Build a run, or find it as its newest checkpoint left it."""
    rank, ranks = this_rank(), num_ranks()
    reader = ShardReader(
        config.data.shards, config.data.on_corrupt, PAIRING, cache=config.data.cache
    )
    plan, selection = plan_run(config, reader.manifest)
    image_encoder = ImageEncoder(config.image_encoder).to(device)
    widths = (image_encoder.local_width, image_encoder.pooled_width)
    state = initial_state(config.model, config.optim, widths, config.seed, device)
    settings = run_settings(config, plan, image_encoder)
    restore(state, run_dir / "checkpoints", settings, resume)
    _check_same_position(state.samples_seen, run_dir, device)
    batches = training_batches(
        reader,
        selection,
        plan,
        plan.rank_slice(config.ghost_batch, rank, ranks),
        config.data,
        state.model.point_encoder.num_local(config.data.num_points),
        state.samples_seen,
    )
    return _Run(
        config=config,
        settings=settings,
        state=state,
        model=_distributed(state.model, ranks, device),
        image_encoder=image_encoder,
        batches=prefetch(batches, config.data.read_ahead),
        rank=rank,
        rows_per_rank=rows_of_ranks(plan, config.ghost_batch, ranks),
        total_steps=config.epochs * plan.batches_per_epoch,
        device=device,
    )


def _check_same_position(samples_seen: int, run_dir: Path, device: torch.device) -> None:
    """Make sure that all ranks found the same checkpoint, or none."""
    if not dist.is_initialized():
        return
    bounds = torch.tensor([samples_seen, -samples_seen], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    most, least = bounds[0].item(), -bounds[1].item()
    if least != most:
        raise CheckpointError(
            f"{run_dir}: ranks found checkpoints of {least} and {most} samples there; the folder "
            "must be shared by all ranks"
        )


def _distributed(model: PretrainModel, ranks: int, device: torch.device) -> nn.Module:
    if ranks == 1:
        return model
    # BatchNorm's running statistics are kept equal by update_running_statistics.
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _sum_over_ranks(terms: LossTerms, model: nn.Module, batch: PairBatch, stop: bool) -> _Totals:
    """Sum each rank's share; gradients are those of the global batch already."""
    shares = [terms.total, terms.local, terms.pooled, terms.local_top1, terms.pooled_top1]
    counts = [(~batch.valid).sum(), terms.total.new_tensor(float(stop))]
    sums = torch.stack([share.detach().double() for share in [*shares, *counts]])
    if dist.is_initialized():
        dist.all_reduce(sums)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients).double()
    # Everything leaves the device at once.
    loss, local, pooled, local_top1, pooled_top1, num_corrupt, stops, norm = torch.cat(
        [sums, grad_norm[None]]
    ).tolist()
    return _Totals(
        loss=loss,
        local=local,
        pooled=pooled,
        local_top1=local_top1,
        pooled_top1=pooled_top1,
        num_corrupt=int(num_corrupt),
        stop=stops > 0,
        grad_norm=norm,
    )


def _report(run: _Run, totals: _Totals, health: EmbeddingHealth, pace: _Pace) -> StepReport:
    samples_seen, global_batch = run.state.samples_seen, run.config.global_batch
    step = samples_seen // global_batch
    return StepReport(
        step=step,
        total_steps=run.total_steps,
        samples_seen=samples_seen,
        loss=totals.loss,
        loss_local=totals.local,
        loss_pooled=totals.pooled,
        local_top1=totals.local_top1,
        pooled_top1=totals.pooled_top1,
        lr=run.state.optimizer.param_groups[0]["lr"],
        grad_norm=totals.grad_norm,
        alignment=health.alignment,
        uniformity=health.uniformity,
        effective_rank=health.effective_rank,
        num_corrupt=pace.num_corrupt,
        samples_per_s=pace.num_steps * global_batch / pace.elapsed_s,
        data_wait=pace.waited_s / pace.elapsed_s,
        eta_s=(run.total_steps - step) * pace.elapsed_s / pace.num_steps,
    )


def _warn_of_collapse(health: EmbeddingHealth, step: int) -> None:
    logger.warning(
        "embeddings are collapsing: %d shapes use %.1f directions at step %d; lower optim.lr, or "
        "raise optim.warmup_fraction or global_batch",
        health.num_shapes,
        health.effective_rank,
        step,
    )
