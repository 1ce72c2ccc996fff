"""What is one update of the weights? Forward, loss, backward, and what all ranks agree on."""

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from picpoint.batch import Embeddings, ImageFeatures, LossTerms, PairBatch, move_batch
from picpoint.losses.gather import ddp_loss
from picpoint.losses.info_nce import pretraining_loss
from picpoint.model import PretrainModel
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.train.claim import Claim
from picpoint.train.finite import check_finite
from picpoint.train.gradient_cache import backward_in_pieces, split_pairs
from picpoint.train.image_source import Teacher
from picpoint.train.precision import ResolvedPrecision, autocast, may_overflow
from picpoint.train.probe_shapes import ProbeShapes
from picpoint.train.settings import JsonValue, PretrainConfig
from picpoint.train.state import TrainState, learning_rate


@dataclass(frozen=True, slots=True)
class Totals:
    """What all ranks agree on after each backward pass: first the sums of `LossTerms`."""

    loss: float
    local: float
    pooled: float
    local_top1: float
    local_top1_back: float
    pooled_top1: float
    pooled_top1_back: float
    num_corrupt: int
    stop: bool
    ask: bool
    grad_norm: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a step needs and no step changes, but for the state.

    The claim on the folder of checkpoints, and the shapes to probe on where any are, are rank 0's,
    which writes checkpoints and probes. The schedule is one of `total_steps`; the run ends at
    `last_step`, before that where it is to pause.
    """

    config: PretrainConfig
    settings: dict[str, JsonValue]
    claim: Claim | None
    probe_shapes: ProbeShapes | None
    state: TrainState[PretrainModel]
    model: nn.Module
    teacher: Teacher
    batches: Generator[PairBatch]
    rank: int
    rows_per_rank: tuple[int, ...]
    total_steps: int
    last_step: int
    device: torch.device
    precision: ResolvedPrecision
    run_dir: Path

    @property
    def step(self) -> int:
        """How many updates were made."""
        return self.state.samples_seen // self.config.global_batch


def train_step(
    run: Run, batch: PairBatch, stop: bool, ask: bool = False
) -> tuple[Embeddings, Totals]:
    """Make one update from this rank's part of a global batch.

    Args:
        run: whose state is updated.
        batch: this rank's part.
        stop: whether this rank wants the run to end; all learn of it.
        ask: whether this rank wants all of them to ask for notices.

    Raises:
        NonFiniteLossError: the loss of the global batch or the norm of its gradient is not a
            number; nothing was updated.
    """
    config, state = run.config, run.state
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config.optim, run.step / run.total_steps)
    state.optimizer.zero_grad(set_to_none=True)
    embeddings, terms = _backward(run, move_batch(batch, run.device))
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    totals = _sum_over_ranks(terms, state.model, batch, (stop, ask))
    figures = {"loss": totals.loss, "gradient norm": totals.grad_norm}
    if may_overflow(state.scaler):
        del figures["gradient norm"]
    check_finite(figures, run.step, batch.keys, run.run_dir, run.rank)
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)  # passes over a gradient that overflowed
        state.scaler.update()
    state.model.keep_temperature_in_range()
    update_running_statistics(state.model)
    state.samples_seen += config.global_batch
    return embeddings, totals


def _backward(run: Run, batch: PairBatch) -> tuple[Embeddings, LossTerms]:
    """Compute this rank's share of the objective, and the gradient of the whole."""

    def embed(batch: PairBatch, image: ImageFeatures) -> Embeddings:
        with autocast(run.precision, run.device):
            return run.model(batch, image)

    def loss(embeddings: Embeddings) -> tuple[LossTerms, torch.Tensor]:
        terms = pretraining_loss(embeddings, run.config.loss, run.rows_per_rank)
        total = ddp_loss(terms.total)
        return terms, total if run.state.scaler is None else run.state.scaler.scale(total)

    image = run.teacher.features(batch)
    # All ranks or none: in pieces, the statistics of a ghost batch are taken twice.
    if 0 < run.config.micro_batch < max(run.rows_per_rank):
        pieces = split_pairs(batch, image, run.config.micro_batch)
        return backward_in_pieces(run.model, embed, pieces, loss)
    embeddings = embed(batch, image)
    terms, total = loss(embeddings)
    total.backward()
    return embeddings, terms


def _sum_over_ranks(
    terms: LossTerms, model: nn.Module, batch: PairBatch, wishes: tuple[bool, bool]
) -> Totals:
    """Sum each rank's share; gradients are those of the global batch already."""
    shares = [getattr(terms, field.name) for field in dataclasses.fields(terms)]
    counts = [(~batch.valid).sum(), *terms.total.new_tensor(wishes)]
    sums = torch.stack([share.detach().double() for share in [*shares, *counts]])
    if dist.is_initialized():
        dist.all_reduce(sums)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients).double()
    # Everything leaves the device at once.
    *shares, num_corrupt, stops, asks, norm = torch.cat([sums, grad_norm[None]]).tolist()
    told = {"stop": stops > 0, "ask": asks > 0, "grad_norm": norm}
    return Totals(*shares, num_corrupt=int(num_corrupt), **told)
