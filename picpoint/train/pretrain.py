"""The pre-training loop: clouds and pictures in, checkpoints and a log out.

It runs on every rank of a torch.distributed group, or alone. It knows no Ray: the caller drives it
as a generator of log lines. The run's folder holds

    metrics.jsonl          one line per log step, written by rank 0
    checkpoints/           see picpoint/train/checkpoint.py
    STOP                   made by anyone who wants the run to save itself and end
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from picpoint import metrics
from picpoint.batch import Embeddings, LossTerms, PairBatch, move_batch
from picpoint.data.pairs import training_batches
from picpoint.data.prefetch import prefetch
from picpoint.encoders.image import ImageEncoder
from picpoint.losses.gather import ddp_loss
from picpoint.losses.info_nce import pretraining_loss
from picpoint.model import PretrainModel
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.train.checkpoint import restore, save_checkpoint
from picpoint.train.log import StepReport, open_log, write_report
from picpoint.train.settings import PretrainConfig, plan_run, rows_of_ranks, run_settings
from picpoint.train.state import TrainState, initial_state, learning_rate
from shards.reader import PAIRING, ShardReader

STOP_FILE = "STOP"


class NonFiniteLossError(RuntimeError):
    """The loss is not a number; the update that would have followed was not made."""


@dataclass(frozen=True, slots=True)
class _Totals:
    """What all ranks agree on after each backward pass, over the global batch."""

    loss: float
    local: float
    pooled: float
    local_top1: float
    pooled_top1: float
    stop: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """What a step needs and no step changes, but for the state."""

    config: PretrainConfig
    state: TrainState
    model: nn.Module
    image_encoder: ImageEncoder
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
        CheckpointError: `run_dir` holds checkpoints of other settings, or any without `resume`.
        NonFiniteLossError: a loss was not a number.
        ShardError: the shards cannot be read.
        MissingWeightsError: the image encoder's weights cannot be found.
    """
    rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    reader = ShardReader(config.data.shards, config.data.on_corrupt, PAIRING)
    plan, selection = plan_run(config, reader.manifest)
    image_encoder = ImageEncoder(config.image_encoder).to(device)
    state = initial_state(
        config.model,
        config.optim,
        (image_encoder.local_width, image_encoder.pooled_width),
        config.seed,
        device,
    )
    settings = run_settings(config, plan, image_encoder)
    restore(state, run_dir / "checkpoints", settings, resume)
    run = _Run(
        config=config,
        state=state,
        model=_distributed(state.model, num_ranks, device),
        image_encoder=image_encoder,
        rows_per_rank=rows_of_ranks(plan, config.ghost_batch, num_ranks),
        total_steps=config.epochs * plan.batches_per_epoch,
        device=device,
    )
    batches = prefetch(
        training_batches(
            reader,
            selection,
            plan,
            plan.rank_slice(config.ghost_batch, rank, num_ranks),
            config.data,
            state.model.point_encoder.num_local(config.data.num_points),
            state.samples_seen,
        ),
        config.data.read_ahead,
    )
    with contextlib.closing(batches), open_log(run_dir, rank, state.samples_seen) as log:
        first_step = step = state.samples_seen // config.global_batch
        started, waited_s, stopped = time.perf_counter(), 0.0, False
        while step < run.total_steps and not stopped:
            asked = time.perf_counter()
            batch = next(batches)
            waited_s += time.perf_counter() - asked

            embeddings, totals = train_step(run, batch, stop_wanted(run_dir, rank))
            step += 1
            stopped = totals.stop
            last = stopped or step == run.total_steps
            if rank == 0 and (last or step % config.checkpoint_every == 0):
                save_checkpoint(
                    run_dir / "checkpoints",
                    step,
                    state.state_dict(),
                    settings,
                    config.keep_checkpoints,
                )
            if last or step % config.log_every == 0:
                elapsed_s = time.perf_counter() - started
                report = _report(run, totals, embeddings, elapsed_s, waited_s, step - first_step)
                write_report(log, report)
                yield report


def train_step(run: _Run, batch: PairBatch, stop: bool) -> tuple[Embeddings, _Totals]:
    """Make one update from this rank's part of a global batch.

    Raises:
        NonFiniteLossError: the loss of the global batch is not a number; nothing was updated.
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
    totals = _sum_over_ranks(terms, stop)
    if not math.isfinite(totals.loss):
        raise NonFiniteLossError(
            f"the loss is {totals.loss} at step {step}, in a batch with the samples "
            f"{' '.join(batch.keys)}; nothing was updated and the last checkpoint is good: "
            "lower optim.lr, or set precision=fp32"
        )
    state.optimizer.step()
    update_running_statistics(state.model)
    state.samples_seen += config.global_batch
    return embeddings, totals


def stop_wanted(run_dir: Path, rank: int) -> bool:
    """Whether someone asked the run to save itself and end; rank 0 looks, all ranks obey."""
    return rank == 0 and (run_dir / STOP_FILE).exists()


def _distributed(model: PretrainModel, num_ranks: int, device: torch.device) -> nn.Module:
    if num_ranks == 1:
        return model
    # BatchNorm's running statistics are kept equal by update_running_statistics.
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _sum_over_ranks(terms: LossTerms, stop: bool) -> _Totals:
    shares = [terms.total, terms.local, terms.pooled, terms.local_top1, terms.pooled_top1]
    sums = torch.stack(
        [
            *(share.detach().double() for share in shares),
            terms.total.new_tensor(float(stop)).double(),
        ]
    )
    if dist.is_initialized():
        dist.all_reduce(sums)
    loss, local, pooled, local_top1, pooled_top1, stops = sums.tolist()
    return _Totals(loss, local, pooled, local_top1, pooled_top1, stop=stops > 0)


def _report(
    run: _Run,
    totals: _Totals,
    embeddings: Embeddings,
    elapsed_s: float,
    waited_s: float,
    num_steps: int,
) -> StepReport:
    """Sum up the run so far; rates are over the steps since it was (re)started."""
    samples_seen, global_batch = run.state.samples_seen, run.config.global_batch
    step = samples_seen // global_batch
    points = embeddings.point_pooled.detach().float()
    parameters = [p.grad for p in run.state.model.parameters() if p.grad is not None]
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
        grad_norm=float(torch.nn.utils.get_total_norm(parameters)),
        alignment=metrics.alignment(
            points, embeddings.picture_pooled[:, 0].detach().float()
        ).item(),
        effective_rank=metrics.effective_rank(points).item(),
        samples_per_s=num_steps * global_batch / elapsed_s,
        data_wait=waited_s / elapsed_s,
        eta_s=(run.total_steps - step) * elapsed_s / num_steps,
    )
