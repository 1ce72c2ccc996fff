"""What must survive a restart? The one mutable type of the project; it is the checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from picpoint.model import ModelConfig, PretrainModel


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Adam with cosine annealing, as the paper has it.

    Attributes:
        lr: highest learning rate. Paper: unspecified; here 1e-3.
        weight_decay: decoupled weight decay. Paper: unspecified; here 1e-6.
        warmup_fraction: share of the run in which the rate rises linearly from zero.
            Paper: unspecified; here none.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-6
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr={self.lr}: must be above 0; try 1e-3, the default")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay={self.weight_decay}: must be 0 or more")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"optim.warmup_fraction={self.warmup_fraction}: must be 0 or more and below 1, a "
                "share of the run; 0 for no warm-up"
            )


@dataclass(slots=True)
class TrainState:
    """Everything that changes in training.

    There is no generator among it: every draw is seeded by (seed, epoch, sample), so that the
    position says it all. The learning rate, too, is a function of the position.

    Attributes:
        model: the trainable parts; the image encoder is frozen and known by its hash.
        optimizer: Adam and its moments.
        samples_seen: the position in the stream, in samples of the global order.
        scaler: of the loss, in float16 only; it learns its scale.
    """

    model: PretrainModel
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
) -> TrainState:
    """Build a model and its optimiser; the same seed gives the same weights everywhere.

    Args:
        model: sizes of the trainable parts.
        optim: optimiser settings.
        image_widths: local and pooled feature width of the image encoder.
        seed: seed of the initial weights; the global generators are left as they were.
        device: where the model lives.
        scaler: of the loss, for float16.
    """
    # Drawn on the CPU for every device. torch.manual_seed would set the accelerators' generators
    # too, which fork_rng would then have to know of.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = PretrainModel(model, *image_widths)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True
    )
    return TrainState(model=network, optimizer=optimizer, samples_seen=0, scaler=scaler)


def learning_rate(optim: OptimConfig, progress: float) -> float:
    """Give the learning rate at a share (0..1) of the run: linear warm-up, then a half cosine."""
    if progress < optim.warmup_fraction:
        return optim.lr * progress / optim.warmup_fraction
    annealed = (progress - optim.warmup_fraction) / (1 - optim.warmup_fraction)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * min(annealed, 1.0)))
