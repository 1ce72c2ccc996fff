"""Is a step's result a number? Asked before the update that it would spoil the weights by."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from picpoint.publish import publish_text


class NonFiniteLossError(RuntimeError):
    """The loss, its gradient or scores are not numbers; no update was made from them."""


def check_finite(
    figures: Mapping[str, float], step: int, keys: Sequence[str], run_dir: Path, rank: int
) -> None:
    """Stop where a figure is no number, and write down what led to it.

    Args:
        figures: by name.
        step: updates made so far.
        keys: samples of this rank's part of the batch; "" where a slot is empty.
        run_dir: where the record goes.
        rank: this one.

    Raises:
        NonFiniteLossError: one is not.
    """
    for figure, value in figures.items():
        if not math.isfinite(value):
            told = {"step": step, "rank": rank, "figure": figure, "value": str(value)}
            record = run_dir / f"nonfinite-step-{step:08d}-rank-{rank}.json"
            publish_text(json.dumps(told | {"keys": list(filter(None, keys))}), record)
            raise NonFiniteLossError(
                f"the {figure} is {value} at step {step}; nothing was updated and the last "
                "checkpoint is good: lower optim.lr, or set precision=fp32 (the batch's samples "
                f"stand in {record})"
            )


def check_scores(scores: Float[Tensor, "*n classes"], of: str) -> None:
    """Stop where a network says nothing: NaN would be counted as the first class.

    Args:
        scores: of a network that is measured.
        of: what they are of, for the message.

    Raises:
        NonFiniteLossError: one is not a number.
    """
    if not scores.isfinite().all():
        raise NonFiniteLossError(
            f"scores of {of} are no numbers: set precision=fp32, or lower optim.lr and begin again"
        )
