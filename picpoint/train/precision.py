"""In which precision does a step compute, and how are small gradients kept from vanishing in it?"""

from typing import Literal

import torch

from picpoint.ops.precision import has_bfloat16

PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]
ResolvedPrecision = Literal["bf16", "fp16", "fp32"]


def resolve_precision(precision: PrecisionName, device: torch.device) -> ResolvedPrecision:
    """Choose for `auto`: bf16 where the hardware has it, else fp32, which is safe anywhere."""
    if precision != "auto":
        return precision
    return "bf16" if has_bfloat16(device) else "fp32"


def autocast(precision: ResolvedPrecision, device: torch.device) -> torch.autocast:
    """Give the context in which a forward pass runs."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


# A float16 loss that overflows even when it is hardly scaled is no matter of its scale.
_LEAST_SCALE = 1.0


def may_overflow(scaler: torch.amp.GradScaler | None) -> bool:
    """Tell whether a gradient that is no number may be mended by a smaller scale."""
    return scaler is not None and scaler.get_scale() > _LEAST_SCALE


def gradient_scaler(
    precision: ResolvedPrecision, device: torch.device
) -> torch.amp.GradScaler | None:
    """Give what scales the loss, so that float16 gradients do not vanish; None where none can."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
