"""The fine-tuning loop: labelled clouds in, checkpoints, a log and a result out.

It runs on every rank of a torch.distributed group, or alone, as pre-training does, and knows no
Ray. Besides a log and checkpoints (see picpoint/train/pretrain.py) the run's folder holds

    evaluations.jsonl      one line per evaluation
    weights.txt            what became of each pre-trained tensor
    examples.npz           where points are labelled: see picpoint/train/examples.py
    result.json            written last: see picpoint/train/finetune_result.py
"""

import contextlib
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import CloudBatch, move_batch, pinned
from picpoint.data.clouds import training_clouds
from picpoint.data.dataset import Dataset, open_dataset
from picpoint.data.prefetch import prefetch
from picpoint.losses.gather import ddp_loss, global_sum, num_ranks, this_rank
from picpoint.ops.dropout import place_dropout
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.publish import publish_text
from picpoint.task_model import TaskNetwork
from picpoint.train.agreement import check_same_position, check_same_precision
from picpoint.train.checkpoint_writer import CheckpointWriter
from picpoint.train.claim import Claim, claim_checkpoints, owner_of
from picpoint.train.evaluation import evaluate
from picpoint.train.examples import keep_examples
from picpoint.train.finetune_log import EVALUATIONS_FILE, EvaluationReport, FinetuneReport
from picpoint.train.finetune_result import write_result
from picpoint.train.finetune_settings import (
    Clouds,
    FinetuneConfig,
    build_network,
    choose_clouds,
    finetune_settings,
)
from picpoint.train.finite import check_finite
from picpoint.train.log import open_log, positions, write_report
from picpoint.train.notice import Departures, Notice, no_notice
from picpoint.train.precision import (
    ResolvedPrecision,
    autocast,
    gradient_scaler,
    may_overflow,
    resolve_precision,
)
from picpoint.train.pretrained import PretrainedEncoder, read_pretrained
from picpoint.train.ranks import distributed
from picpoint.train.restore import restore
from picpoint.train.settings import JsonValue
from picpoint.train.state import TrainState, learning_rate, new_state
from picpoint.train.stop import stop_wanted
from picpoint.weights.table import format_lines
from picpoint.weights.transfer import transfer_weights
from shards.cloud_sets import CloudReader

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.txt"


@dataclass(frozen=True, slots=True)
class _Run:
    """What a step needs and no step changes, but for the state."""

    config: FinetuneConfig
    settings: dict[str, JsonValue]
    claim: Claim | None
    dataset: Dataset
    clouds: Clouds
    state: TrainState[TaskNetwork]
    model: nn.Module
    batches: Generator[CloudBatch]
    device: torch.device
    precision: ResolvedPrecision
    run_dir: Path
    first_slot: int

    @property
    def step(self) -> int:
        """How many updates were made."""
        return self.state.samples_seen // self.config.global_batch

    @property
    def total_steps(self) -> int:
        """How many updates make the run."""
        return self.config.epochs * self.clouds.plan.batches_per_epoch

    @property
    def epoch(self) -> int:
        """How many epochs are whole."""
        return self.step // self.clouds.plan.batches_per_epoch

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the network is measured as it is now."""
        is_whole = self.step > 0 and self.step % self.clouds.plan.batches_per_epoch == 0
        is_last = self.step == self.total_steps
        return is_last or (is_whole and self.epoch % self.config.eval_every == 0)


@dataclass(frozen=True, slots=True)
class _Totals:
    """What all ranks agree on after each backward pass, over the global batch."""

    loss: float
    accuracy: float
    grad_norm: float
    stop: bool
    ask: bool


def finetune(
    config: FinetuneConfig,
    run_dir: Path,
    device: torch.device,
    resume: str = "auto",
    notice: Notice = no_notice,
) -> Iterator[FinetuneReport]:
    """Run or continue a fine-tuning run on this rank, one report per log step.

    Args:
        config: the run.
        run_dir: its folder; shared by all ranks.
        device: where this rank computes.
        resume: `auto` continues from the newest whole checkpoint, where there is one; `never`
            refuses a folder that holds any; a path or URL begins from that checkpoint.
        notice: is asked at every line of the log and every few seconds; where it names machines
            that it did not name before, a checkpoint is written at once.

    Raises:
        DatasetError: the data set does not hold what is asked of it.
        CheckpointError: there are checkpoints of other settings, or any and `resume` is `never`;
            ranks found different ones; or `weights` holds no whole one.
        ClaimError: the checkpoints are another run's, or another process goes on with this one.
        EncoderFileError: `weights` is a damaged folder or no name on the Hub.
        TransferRefusedError: the pre-trained encoder does not fit the network.
        NonFiniteLossError: a loss or a gradient was not a number.
        ShardError: the clouds cannot be read.
    """
    run = _open_run(config, run_dir, device, resume)
    state, rank, checkpoints = run.state, this_rank(), config.checkpoints_of(run_dir)
    with (
        contextlib.closing(run.batches),
        CheckpointWriter(checkpoints, run.settings, config.retention, run.claim) as writer,
        open_log(run_dir, rank, state.samples_seen) as log,
        open_log(run_dir, rank, state.samples_seen, EVALUATIONS_FILE) as evaluations,
    ):
        first_step = step = run.step
        departures = Departures(notice)
        if run.is_evaluation_due and _is_unmeasured(run):
            if rank == 0:
                writer.save(step, state.state_dict())
            write_report(evaluations, _evaluate(run))
        started, waited_s, stopped = time.perf_counter(), 0.0, False
        while step < run.total_steps and not stopped:
            asked = time.perf_counter()
            batch = next(run.batches)
            waited_s += time.perf_counter() - asked

            totals = _train_step(run, batch, stop_wanted(run_dir, rank), departures.are_due())
            writer.wait_a_while()  # one step goes on beside the writing: a kill costs one interval
            step += 1
            stopped = totals.stop
            last, is_evaluated = step == run.total_steps, run.is_evaluation_due
            report = None
            if last or stopped or step % config.log_every == 0:
                elapsed_s = time.perf_counter() - started
                report = _report(run, totals, step - first_step, elapsed_s, waited_s)
                write_report(log, report)
            # After the log, which a resume cuts to where the checkpoint was, and before the
            # evaluation: it may take minutes, and whoever goes on makes one that is missing.
            is_asked = totals.ask or report is not None
            is_urgent = last or stopped or (is_asked and departures.are_new())
            is_due = is_evaluated or step % config.checkpoint_every == 0
            if rank == 0 and (is_urgent or is_due):
                writer.save(step, state.state_dict())
            if is_urgent:
                writer.wait()
            if is_evaluated and (last or not stopped):
                write_report(evaluations, _evaluate(run))
            if report is not None:
                yield report
    if step == run.total_steps and rank == 0:
        _sum_up(run)


def _open_run(config: FinetuneConfig, run_dir: Path, device: torch.device, resume: str) -> _Run:
    """Build a run, or find it as its newest checkpoint left it."""
    view = config.view
    dataset = open_dataset(
        CloudReader(config.data.shards, members=view.members, cache=config.data.cache)
    )
    clouds = choose_clouds(config, dataset)
    precision = resolve_precision(config.precision, device)
    pretrained = read_pretrained(config.weights) if config.weights else None
    state = new_state(
        lambda: _initial_network(config, dataset, pretrained, run_dir),
        config.optim,
        config.seed,
        device,
        gradient_scaler(precision, device),
    )
    settings = finetune_settings(
        config, clouds, precision, "" if pretrained is None else pretrained.sha256
    )
    claim = None
    if this_rank() == 0:
        owner = owner_of(run_dir, config.checkpoints)
        claim = claim_checkpoints(config.checkpoints_of(run_dir), owner, settings)
    # A collective: no rank looks for a checkpoint while another process could still write one.
    check_same_precision(precision, device)
    restore(state, config.checkpoints_of(run_dir), settings, resume)
    check_same_position(state.samples_seen, run_dir, device)
    slots = clouds.plan.rank_slice(config.ghost_batch, this_rank(), num_ranks())
    batches = training_clouds(
        dataset, clouds.split.train, clouds.plan, slots, config.data, view, state.samples_seen
    )
    return _Run(
        config=config,
        settings=settings,
        claim=claim,
        dataset=dataset,
        clouds=clouds,
        state=state,
        model=distributed(state.model, num_ranks(), device),
        batches=prefetch(pinned(batches, device), config.data.read_ahead),
        device=device,
        precision=precision,
        run_dir=run_dir,
        first_slot=slots.start,
    )


def _initial_network(
    config: FinetuneConfig, dataset: Dataset, pretrained: PretrainedEncoder | None, run_dir: Path
) -> TaskNetwork:
    """Build the network; with pre-trained weights, say what became of each tensor."""
    network = build_network(config, dataset)
    if pretrained is None:
        return network
    lines = transfer_weights(network.trunk, pretrained.state, config.initialise)
    if this_rank() == 0:
        table = format_lines(lines)
        run_dir.mkdir(parents=True, exist_ok=True)
        told = f"{pretrained.place}, SHA-256 {pretrained.sha256}\n{table}\n"
        publish_text(told, run_dir / WEIGHTS_FILE)
        logger.info("weights of %s: %s", pretrained.place, table.splitlines()[-1])
    return network


def _train_step(run: _Run, batch: CloudBatch, stop: bool, ask: bool) -> _Totals:
    """Make one update from this rank's part of a global batch."""
    config, state = run.config, run.state
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config.optim, run.step / run.total_steps)
    state.optimizer.zero_grad(set_to_none=True)
    state.model.train()
    place_dropout(state.model, config.seed, run.step, run.first_slot)
    batch = move_batch(batch, run.device)
    with autocast(run.precision, run.device):
        scores = run.model(batch)
    loss, right = _objective(scores.float(), batch, config)
    total = ddp_loss(loss)
    (total if state.scaler is None else state.scaler.scale(total)).backward()
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    totals = _agree(state.model, loss, right, (stop, ask), config.clip_grad_norm)
    figures = {"loss": totals.loss, "gradient norm": totals.grad_norm}
    if may_overflow(state.scaler):
        del figures["gradient norm"]
    check_finite(figures, run.step, batch.keys, run.run_dir, this_rank())
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)  # passes over a gradient that overflowed
        state.scaler.update()
    update_running_statistics(state.model)
    state.samples_seen += config.global_batch
    return totals


def _objective(scores: Tensor, batch: CloudBatch, config: FinetuneConfig) -> tuple[Tensor, Tensor]:
    """Give this rank's share of the mean cross-entropy, and of the accuracy."""
    truth = batch.labels if config.task == "classify" else batch.point_labels
    total = truth.numel() // len(truth) * config.global_batch
    flat, truth = scores.flatten(0, -2), truth.flatten()
    loss = functional.cross_entropy(
        flat, truth, reduction="sum", label_smoothing=config.label_smoothing
    )
    return loss / total, (flat.argmax(-1) == truth).sum() / total


def _agree(
    model: nn.Module,
    loss: Tensor,
    right: Tensor,
    wishes: tuple[bool, bool],
    clip_grad_norm: float,
) -> _Totals:
    """Sum each rank's share; shorten the gradient, which is that of the global batch already."""
    shares = [loss.detach().double(), right.double(), *loss.new_tensor(wishes).double()]
    sums = global_sum(torch.stack(shares))
    parameters = [p for p in model.parameters() if p.grad is not None]
    longest = clip_grad_norm or float("inf")
    norm = nn.utils.clip_grad_norm_(parameters, longest).double()
    summed, accuracy, stops, asks, grad_norm = torch.cat([sums, norm[None]]).tolist()
    return _Totals(summed, accuracy, grad_norm, stop=stops > 0, ask=asks > 0)


def _is_unmeasured(run: _Run) -> bool:
    """Tell whether this run has no evaluation of where it stands; a collective.

    So it is where it ended within one, and where it begins from another's checkpoint.
    """
    is_missing = False
    if this_rank() == 0:  # the only one that keeps a log
        is_missing = run.state.samples_seen not in positions(run.run_dir / EVALUATIONS_FILE)
    return global_sum(torch.tensor(float(is_missing), device=run.device)).item() > 0


def _evaluate(run: _Run) -> EvaluationReport:
    measured = evaluate(
        run.state.model,
        run.dataset,
        run.clouds.split.evaluated,
        run.config,
        run.precision,
        run.device,
        run.config.votes if run.step == run.total_steps else 0,
    )
    return EvaluationReport(
        samples_seen=run.state.samples_seen,
        epoch=run.epoch,
        figures=measured.figures,
        confusion=measured.confusion.tolist(),
        miou_of_class=measured.miou_of_class,
    )


def _sum_up(run: _Run) -> None:
    """Write what a finished run came to."""
    network, measured = run.state.model, run.clouds.split.evaluated
    keep_examples(
        network, run.dataset, measured, run.config, run.precision, run.device, run.run_dir
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    write_result(run.run_dir, run.config, run.dataset, run.clouds, run.settings, parameters)


def _report(
    run: _Run, totals: _Totals, num_steps: int, elapsed_s: float, waited_s: float
) -> FinetuneReport:
    return FinetuneReport(
        step=run.step,
        total_steps=run.total_steps,
        samples_seen=run.state.samples_seen,
        loss=totals.loss,
        accuracy=totals.accuracy,
        lr=run.state.optimizer.param_groups[0]["lr"],
        grad_norm=totals.grad_norm,
        samples_per_s=num_steps * run.config.global_batch / elapsed_s,
        data_wait=waited_s / elapsed_s,
        eta_s=(run.total_steps - run.step) * elapsed_s / num_steps,
    )
