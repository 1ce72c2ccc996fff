"""Do all ranks start from the same point, and compute alike? Collectives: every rank calls them."""

from pathlib import Path

import torch
import torch.distributed as dist

from picpoint.train.checkpoint import CheckpointError

_FORMATS = ("fp32", "bf16", "fp16", "float32", "bfloat16")


class PrecisionError(RuntimeError):
    """Ranks would compute in different number formats."""


def check_same_precision(precision: str, image_precision: str, device: torch.device) -> None:
    """Make sure that `auto` has come to the same on all ranks."""
    least, most = _range_over_ranks(
        _FORMATS.index(precision) * 8 + _FORMATS.index(image_precision), device
    )
    if least != most:
        raise PrecisionError(
            f"precision=auto: this rank computes in {precision} (pictures in {image_precision}), "
            "another one otherwise, because their hardware differs; name one with precision=fp32 "
            "image_encoder.precision=float32, or bf16 and bfloat16"
        )


def _range_over_ranks(value: int, device: torch.device) -> tuple[int, int]:
    """Give the least and the largest of what the ranks have."""
    if not dist.is_initialized():
        return value, value
    bounds = torch.tensor([value, -value], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    return -int(bounds[1].item()), int(bounds[0].item())


def check_same_position(samples_seen: int, run_dir: Path, device: torch.device) -> None:
    """Make sure that all ranks found the same checkpoint, or none."""
    least, most = _range_over_ranks(samples_seen, device)
    if least != most:
        raise CheckpointError(
            f"{run_dir}: ranks found checkpoints of {least} and {most} samples there; the folder "
            "must be shared by all ranks"
        )
