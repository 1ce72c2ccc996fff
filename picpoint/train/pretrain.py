"""The pre-training loop: clouds and pictures in, checkpoints and a log out.

It runs on every rank of a torch.distributed group, or alone. It knows no Ray: the caller drives it
as a generator of log lines. The run's folder holds

    metrics.jsonl          one line per log step, written by rank 0
    probes.jsonl           one line per probe, where `probe.every` asks for them
    checkpoints/           see picpoint/train/checkpoint.py
    STOP                   made by anyone who wants the run to save itself and end
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from picpoint.batch import pinned
from picpoint.data.pairs import training_batches
from picpoint.data.prefetch import prefetch
from picpoint.losses.gather import num_ranks, this_rank
from picpoint.train.agreement import check_same_position, check_same_precision
from picpoint.train.background_probe import open_probe
from picpoint.train.checkpoint_writer import CheckpointWriter
from picpoint.train.claim import claim_checkpoints, owner_of
from picpoint.train.collapse import EmbeddingHealth, measure_embeddings
from picpoint.train.image_source import open_teacher
from picpoint.train.log import StepReport, open_log, write_report
from picpoint.train.notice import Departures, Notice, no_notice
from picpoint.train.precision import (
    gradient_scaler,
    resolve_precision,
)
from picpoint.train.probe_shapes import choose_probe_shapes
from picpoint.train.ranks import distributed
from picpoint.train.restore import restore
from picpoint.train.settings import (
    PretrainConfig,
    plan_run,
    rows_of_ranks,
    run_settings,
)
from picpoint.train.state import initial_state, set_rules
from picpoint.train.step import Run, Totals, train_step
from picpoint.train.stop import stop_wanted
from shards.reader import PAIRING, ShardReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pace:
    """How it went since the run was (re)started."""

    num_steps: int
    num_corrupt: int
    elapsed_s: float
    waited_s: float


def pretrain(
    config: PretrainConfig,
    run_dir: Path,
    device: torch.device,
    resume: str = "auto",
    notice: Notice = no_notice,
) -> Iterator[StepReport]:
    """Run or continue a pre-training run on this rank, one report per log step.

    Args:
        config: the run.
        run_dir: its folder; shared by all ranks.
        device: where this rank computes.
        resume: `auto` continues from the newest whole checkpoint, where there is one; `never`
            refuses a folder that holds any; a path or URL begins from that checkpoint.
        notice: is asked at every line of the log and every few seconds; where it names machines
            that it did not name before, a checkpoint is written at once.

    Raises:
        CheckpointError: there are checkpoints of other settings, or any and `resume` is `never`;
            ranks found different ones; or one cannot be written.
        ClaimError: the checkpoints are another run's, or another process goes on with this one.
        ProbeError: there are too few shapes for the probes that are asked for.
        NonFiniteLossError: a loss or a gradient was not a number.
        ShardError: the shards cannot be read.
        MissingWeightsError: the image encoder's weights cannot be found.
    """
    checkpoints = config.checkpoints_of(run_dir)
    run = _open_run(config, run_dir, device, resume)
    state = run.state
    with (
        contextlib.closing(run.batches),
        CheckpointWriter(checkpoints, run.settings, config.retention, run.claim) as writer,
        open_log(run_dir, run.rank, state.samples_seen) as log,
        open_probe(config, run_dir, run.probe_shapes, state.samples_seen) as probe,
    ):
        first_step = step = run.step
        departures = Departures(notice)
        started, waited_s, num_corrupt = time.perf_counter(), 0.0, 0
        stopped = warned = False
        if step >= run.last_step and run.rank == 0:
            writer.save(step, state.state_dict())  # begun from a finished run: it is here, too
        while step < run.last_step and not stopped:
            if probe is not None and config.is_probe_due(state.samples_seen):
                probe.offer(state.model.point_encoder, step, state.samples_seen)
            asked = time.perf_counter()
            batch = next(run.batches)
            waited_s += time.perf_counter() - asked

            stop, ask = stop_wanted(run_dir, run.rank), departures.are_due()
            embeddings, totals = train_step(run, batch, stop, ask)
            writer.wait_a_while()  # one step goes on beside the writing: a kill costs one interval
            step += 1
            num_corrupt += totals.num_corrupt
            stopped = totals.stop
            last = stopped or step == run.last_step
            report = None
            if last or step % config.log_every == 0:
                health = measure_embeddings(embeddings, run.rows_per_rank)
                if health.is_collapse and run.rank == 0 and not warned:
                    _warn_of_collapse(health, step)
                    warned = True
                elapsed_s = time.perf_counter() - started
                pace = _Pace(step - first_step, num_corrupt, elapsed_s, waited_s)
                learnt = embeddings.temperature
                temperature = config.loss.temperature if learnt is None else learnt.item()
                report = _report(run, totals, temperature, health, pace)
                write_report(log, report)
            is_asked = totals.ask or report is not None
            is_urgent = last or (is_asked and departures.are_new())
            # After the log, which a resume cuts to where the checkpoint was: no line is ever lost.
            if run.rank == 0 and (is_urgent or config.is_checkpoint_due(step)):
                writer.save(step, state.state_dict())
            if is_urgent:
                writer.wait()
            if report is not None:
                yield report
        if probe is not None and not stopped:
            encoder, is_enough = state.model.point_encoder, lambda: stop_wanted(run_dir, run.rank)
            probe.finish(encoder, step, state.samples_seen, is_enough)


def _open_run(config: PretrainConfig, run_dir: Path, device: torch.device, resume: str) -> Run:
    """Build a run, or find it as its newest checkpoint left it."""
    rank, ranks = this_rank(), num_ranks()
    data = config.data
    columns = (data.features,) if data.image_features == "cached" else ()
    reader = ShardReader(data.shards, data.on_corrupt, PAIRING, columns, data.cache)
    plan, selection = plan_run(config, reader.manifest)
    teacher = open_teacher(data, config.image_encoder, reader.manifest, device)
    image = teacher.source
    precision = resolve_precision(config.precision, device)
    settings = run_settings(config, plan, image, precision)
    claim = probe_shapes = None
    if rank == 0:
        if config.probe.every:
            probe_shapes = choose_probe_shapes(
                reader.manifest, data.holdout, config.probe, config.ghost_batch
            )
        owner = owner_of(run_dir, config.checkpoints)
        claim = claim_checkpoints(config.checkpoints_of(run_dir), owner, settings)
    # A collective: no rank looks for a checkpoint while another process could still write one.
    check_same_precision(precision, device, image.precision)
    widths = (image.local_width, image.pooled_width)
    scaler = gradient_scaler(precision, device)
    state = initial_state(config.model, config.optim, widths, config.seed, device, scaler)
    restore(state, config.checkpoints_of(run_dir), settings, resume, config.resume_changes)
    set_rules(state.optimizer, config.optim)  # a checkpoint brings those that it was made with
    check_same_position(state.samples_seen, run_dir, device)
    batches = training_batches(
        reader,
        selection,
        plan,
        plan.rank_slice(config.ghost_batch, rank, ranks),
        data,
        state.model.point_encoder.num_local(data.num_points),
        state.samples_seen,
        teacher.codec,
    )
    return Run(
        config=config,
        settings=settings,
        claim=claim,
        probe_shapes=probe_shapes,
        state=state,
        model=distributed(state.model, ranks, device),
        teacher=teacher,
        batches=prefetch(pinned(batches, device), data.read_ahead),
        rank=rank,
        rows_per_rank=rows_of_ranks(plan, config.ghost_batch, ranks),
        total_steps=config.epochs * plan.batches_per_epoch,
        last_step=config.last_epoch * plan.batches_per_epoch,
        device=device,
        precision=precision,
        run_dir=run_dir,
    )


def _report(
    run: Run, totals: Totals, temperature: float, health: EmbeddingHealth, pace: _Pace
) -> StepReport:
    samples_seen, global_batch = run.state.samples_seen, run.config.global_batch
    step = samples_seen // global_batch
    return StepReport(
        step=step,
        total_steps=run.total_steps,
        samples_seen=samples_seen,
        loss=totals.loss,
        loss_local=totals.local,
        loss_pooled=totals.pooled,
        temperature=temperature,
        local_top1=totals.local_top1,
        local_top1_back=totals.local_top1_back,
        pooled_top1=totals.pooled_top1,
        pooled_top1_back=totals.pooled_top1_back,
        lr=run.state.optimizer.param_groups[0]["lr"],
        grad_norm=totals.grad_norm,
        alignment=health.alignment,
        uniformity=health.uniformity,
        effective_rank=health.effective_rank,
        num_corrupt=pace.num_corrupt,
        samples_per_s=pace.num_steps * global_batch / pace.elapsed_s,
        data_wait=pace.waited_s / pace.elapsed_s,
        eta_s=(run.last_step - step) * pace.elapsed_s / pace.num_steps,
    )


def _warn_of_collapse(health: EmbeddingHealth, step: int) -> None:
    logger.warning(
        "embeddings are collapsing: %d shapes use %.1f directions at step %d; lower optim.lr, or "
        "raise optim.warmup_fraction or global_batch",
        health.num_shapes,
        health.effective_rank,
        step,
    )
