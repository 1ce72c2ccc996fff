"""Do all ranks start from the same point, and compute alike? Collectives: every rank calls them."""

from pathlib import Path

import torch
import torch.distributed as dist

from picpoint.train.checkpoint import CheckpointError

_FORMATS = ("fp32", "bf16", "fp16", "float32", "bfloat16")


class PrecisionError(RuntimeError):
    """Ranks would compute in different number formats."""


def check_same_precision(precision: str, device: torch.device, image_precision: str = "") -> None:
    """Make sure that `auto` has come to the same on all ranks; "" where no pictures are read."""
    pictures = _FORMATS.index(image_precision) if image_precision else 0
    least, most = _range_over_ranks(_FORMATS.index(precision) * 8 + pictures, device)
    if least != most:
        of_pictures = f" (pictures in {image_precision})" if image_precision else ""
        other = " image_encoder.precision=float32, or bf16 and bfloat16" if image_precision else ""
        raise PrecisionError(
            f"precision=auto: this rank computes in {precision}{of_pictures}, another one "
            f"otherwise, because their hardware differs; name one with precision=fp32{other}"
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
