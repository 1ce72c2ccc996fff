"""What must survive a restart? The one mutable type of the project; it is the checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from picpoint.model import ModelConfig, PretrainModel


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """An optimiser, and how its rate falls. The paper has Adam and a cosine.

    Attributes:
        algorithm: `adamw` (Adam with decoupled weight decay) or `sgd` (with momentum).
        lr: highest learning rate. Paper: unspecified; here 1e-3.
        min_lr: where the cosine ends. Paper: unspecified; here 0.
        weight_decay: of all parameters. Paper: unspecified; here 1e-6.
        momentum: of `sgd`.
        warmup_fraction: share of the run in which the rate rises linearly from zero.
            Paper: unspecified; here none.
        cosine_share: share of the run at which the cosine has come to `min_lr`, where the rate
            stays; None for the whole run.
        drop_at: shares of the run at each of which the rate falls to a tenth, in place of the
            cosine; None for the cosine.
    """

    algorithm: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    min_lr: float = 0.0
    weight_decay: float = 1e-6
    momentum: float = 0.9
    warmup_fraction: float = 0.0
    # None is what runs of earlier versions had, whose settings do not name them.
    cosine_share: float | None = None
    drop_at: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(
                f"optim.min_lr={self.min_lr}: must be 0 or more, and not above optim.lr={self.lr}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum={self.momentum}: must be 0 or more and below 1")
        if not self.lr > 0:
            raise ValueError(f"optim.lr={self.lr}: must be above 0; try 1e-3, the default")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay={self.weight_decay}: must be 0 or more")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"optim.warmup_fraction={self.warmup_fraction}: must be 0 or more and below 1, a "
                "share of the run; 0 for no warm-up"
            )
        share, drops = self.cosine_share, self.drop_at
        if share is not None and not self.warmup_fraction < share <= 1:
            raise ValueError(
                f"optim.cosine_share={share}: must be above optim.warmup_fraction="
                f"{self.warmup_fraction}, and at most 1"
            )
        if drops is not None:
            bounds = (self.warmup_fraction, *drops, 1.0)
            if not drops or any(a >= b for a, b in pairwise(bounds)):
                raise ValueError(
                    f"optim.drop_at={list(drops)}: must be shares of the run in rising order, "
                    f"above optim.warmup_fraction={self.warmup_fraction} and below 1"
                )
            if share is not None or self.min_lr:
                raise ValueError(
                    f"optim.drop_at={list(drops)}: takes the place of the cosine; leave "
                    "optim.cosine_share at null and optim.min_lr at 0"
                )


Model = TypeVar("Model", bound=nn.Module)


@dataclass(slots=True)
class TrainState(Generic[Model]):
    """Everything that changes in training.

    There is no generator among it: every draw is seeded by (seed, epoch, sample), so that the
    position says it all. The learning rate, too, is a function of the position.

    Attributes:
        model: the trainable parts; an image encoder is frozen and known by its hash.
        optimizer: with its moments.
        samples_seen: the position in the stream, in samples of the global order.
        scaler: of the loss, in float16 only; it learns its scale.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    samples_seen: int
    scaler: torch.amp.GradScaler | None = None

    def state_dict(self) -> dict[str, Any]:
        """Give the state as tensors and plain values, as `torch.load(weights_only=True)` reads."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "samples_seen": self.samples_seen,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Take over a stored state; every tensor must find its place."""
        self.model.load_state_dict(stored["model"], strict=True)
        self.optimizer.load_state_dict(stored["optimizer"])
        self.samples_seen = stored["samples_seen"]
        if self.scaler is not None:
            self.scaler.load_state_dict(stored["scaler"])


def initial_state(
    model: ModelConfig,
    optim: OptimConfig,
    image_widths: tuple[int, int],
    seed: int,
    device: torch.device,
    scaler: torch.amp.GradScaler | None = None,
) -> TrainState[PretrainModel]:
    """Build the model of pre-training and its optimiser; see `new_state`.

    Args:
        model: sizes of the trainable parts.
        optim: optimiser settings.
        image_widths: local and pooled feature width of the image encoder.
        seed: seed of the initial weights.
        device: where the model lives.
        scaler: of the loss, for float16.
    """
    return new_state(lambda: PretrainModel(model, *image_widths), optim, seed, device, scaler)


def new_state(
    build: Callable[[], Model],
    optim: OptimConfig,
    seed: int,
    device: torch.device,
    scaler: torch.amp.GradScaler | None = None,
) -> TrainState[Model]:
    """Build a model and its optimiser; the same seed gives the same weights everywhere.

    Args:
        build: gives the model, on the CPU; what it draws is drawn from the seed.
        optim: optimiser settings.
        seed: seed of the initial weights; the global generators are left as they were.
        device: where the model lives.
        scaler: of the loss, for float16.
    """
    # Drawn on the CPU for every device. torch.manual_seed would set the accelerators' generators
    # too, which fork_rng would then have to know of.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = build()
    network.to(device)
    optimizer = _optimizer([p for p in network.parameters() if p.requires_grad], optim)
    return TrainState(model=network, optimizer=optimizer, samples_seen=0, scaler=scaler)


def _optimizer(parameters: list[nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    match optim.algorithm:
        case "adamw":
            return torch.optim.AdamW(
                parameters, lr=optim.lr, weight_decay=optim.weight_decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                parameters,
                lr=optim.lr,
                momentum=optim.momentum,
                weight_decay=optim.weight_decay,
                fused=True,
            )


def set_rules(optimizer: torch.optim.Optimizer, optim: OptimConfig) -> None:
    """Give an optimiser the rules of a config, other than the rate, which each step sets."""
    for group in optimizer.param_groups:
        group["weight_decay"] = optim.weight_decay
        if optim.algorithm == "sgd":
            group["momentum"] = optim.momentum


def learning_rate(optim: OptimConfig, progress: float) -> float:
    """Give the learning rate at a share (0..1) of the run: linear warm-up, then what falls."""
    if progress < optim.warmup_fraction:
        return optim.lr * progress / optim.warmup_fraction
    if optim.drop_at is not None:
        return optim.lr * 0.1 ** sum(progress >= share for share in optim.drop_at)
    whole = 1.0 if optim.cosine_share is None else optim.cosine_share
    annealed = (progress - optim.warmup_fraction) / (whole - optim.warmup_fraction)
    share = 0.5 * (1 + math.cos(math.pi * min(annealed, 1.0)))
    return optim.min_lr + (optim.lr - optim.min_lr) * share
