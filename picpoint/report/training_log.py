"""How did training go? The lines of metrics.jsonl that the page draws."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64


class LogError(ValueError):
    """A training log cannot be read; the message names the line and what to do."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """What one log step tells; a step tells more, the page draws these.

    Attributes:
        samples_seen: samples that training had seen, over all ranks.
        loss: the objective.
        loss_local: its local term, before weighting.
        loss_pooled: its global term, before weighting.
        local_top1: local retrieval accuracy in the batch (point -> pixel), 0..1.
        pooled_top1: global retrieval accuracy in the batch (shape -> picture), 0..1.
        lr: learning rate of the step.
        samples_per_s: throughput over all ranks.
    """

    samples_seen: int
    loss: float
    loss_local: float
    loss_pooled: float
    local_top1: float
    pooled_top1: float
    lr: float
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The log of one seed's training."""

    seed: int
    lines: tuple[LogLine, ...]

    def curve(self, figure: str) -> Float64[np.ndarray, "n 2"]:
        """Give a figure, a field of `LogLine`, over samples seen."""
        points = [(line.samples_seen, getattr(line, figure)) for line in self.lines]
        return np.array(points, dtype=np.float64).reshape(-1, 2)


def load_log(path: Path, seed: int) -> TrainingLog:
    """Read metrics.jsonl.

    Raises:
        LogError: the file is missing, or a line of it is broken or lacks a figure.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LogError(f"{path}: no such file; run `picpoint pretrain` first") from None
    lines = [
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(text.splitlines(), start=1)
    ]
    return TrainingLog(seed=seed, lines=tuple(lines))


def _parse(line: str, place: str) -> LogLine:
    try:
        told = json.loads(line)
        return LogLine(
            samples_seen=int(told["samples_seen"]),
            loss=float(told["loss"]),
            loss_local=float(told["loss_local"]),
            loss_pooled=float(told["loss_pooled"]),
            local_top1=float(told["local_top1"]),
            pooled_top1=float(told["pooled_top1"]),
            lr=float(told["lr"]),
            samples_per_s=float(told["samples_per_s"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LogError(f"{place}: broken ({error!r}); remove the line or train again") from error
