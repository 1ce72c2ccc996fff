"""How is each ghost's data scaled, shifted and rectified in as few passes over memory as can be?

On a CPU the passes over wide features cost as much as the products that made them; so the
normalisation, its LeakyReLU and their gradients are single kernels. Here g is the number of ghosts,
n the entries of each. A slope of 1 leaves negative results as they are, 0 is ReLU.
"""

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from picpoint.ops.backend import backend_of
from picpoint.ops.normalise_kernels import (
    fill_grad_input,
    fill_moments,
    fill_output,
    sum_gradients,
)


def scale_and_shift(
    x: Float[Tensor, "g n C"],
    scale: Float[Tensor, "g C"],
    shift: Float[Tensor, "g C"],
    slope: float,
) -> Float[Tensor, "g n C"]:
    """Give leaky_relu(x * scale + shift), with gradients for all three."""
    if backend_of(x) == "numba":
        return cast(Tensor, _ScaleAndShift.apply(x, scale, shift, slope))
    return scale_and_shift_plain(x, scale, shift, slope)


def scale_and_shift_plain(
    x: Float[Tensor, "g n C"],
    scale: Float[Tensor, "g C"],
    shift: Float[Tensor, "g C"],
    slope: float,
) -> Float[Tensor, "g n C"]:
    """Do what `scale_and_shift` does in plain torch."""
    return functional.leaky_relu(torch.addcmul(shift[:, None], x, scale[:, None]), slope)


def normalise(
    x: Float[Tensor, "g n C"],
    weight: Float[Tensor, " C"],
    bias: Float[Tensor, " C"],
    mask: Bool[Tensor, "g n"] | None,
    eps: float,
    slope: float,
) -> tuple[Float[Tensor, "g n C"], Float[Tensor, "2 g C"]]:
    """Normalise each ghost by its own statistics, then scale, shift and rectify.

    Args:
        x: float32 or float64.
        weight: scale of the normalised entries.
        bias: shift of the same.
        mask: False for entries that enter no statistic; the result is 0 there.
        eps: added to the variance.
        slope: what negative results are multiplied by.

    Returns:
        The result, and the mean and the biased variance of each ghost (without gradient).
    """
    if backend_of(x) == "numba":
        return cast(tuple[Tensor, Tensor], _Normalise.apply(x, weight, bias, mask, eps, slope))
    return normalise_plain(x, weight, bias, mask, eps, slope)


def normalise_plain(
    x: Float[Tensor, "g n C"],
    weight: Float[Tensor, " C"],
    bias: Float[Tensor, " C"],
    mask: Bool[Tensor, "g n"] | None,
    eps: float,
    slope: float,
) -> tuple[Float[Tensor, "g n C"], Float[Tensor, "2 g C"]]:
    """Do what `normalise` does in plain torch."""
    if mask is None:
        variance, mean = torch.var_mean(x, dim=1, correction=0)
    else:
        # Masked entries may hold anything, and 0 * inf is not 0.
        x = x.masked_fill(~mask[..., None], 0)
        count = mask.sum(dim=1).clamp(min=1)[:, None]
        mean = x.sum(dim=1) / count
        centred = (x - mean[:, None]).masked_fill(~mask[..., None], 0)
        variance = centred.square().sum(dim=1) / count
    scale = weight * torch.rsqrt(variance + eps)
    y = scale_and_shift_plain(x, scale, bias - mean * scale, slope)
    if mask is not None:
        y = y.masked_fill(~mask[..., None], 0)
    return y, torch.stack([mean, variance]).detach()


class _ScaleAndShift(torch.autograd.Function):
    """The kernels as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        slope: float,
    ) -> Tensor:
        x, scale, shift = x.contiguous(), scale.contiguous(), shift.contiguous()
        ctx.save_for_backward(x, scale, shift)
        ctx.slope = slope
        return _apply(x, scale, shift, _everything(x), slope)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, shift = ctx.saved_tensors
        grad, mask = grad.contiguous(), _everything(x)
        grad_shift, grad_scale = _reduce(grad, x, scale, shift, mask, ctx.slope)
        zero = torch.zeros_like(scale)
        grad_x = _grad_input(grad, x, scale, shift, mask, ctx.slope, zero, zero)
        return grad_x, grad_scale.to(x.dtype), grad_shift.to(x.dtype), None


class _Normalise(torch.autograd.Function):
    """The kernels as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        eps: float,
        slope: float,
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        mask = _everything(x) if mask is None else mask.contiguous()
        count = mask.sum(dim=1).clamp(min=1).to(torch.float64)[:, None]
        moments = torch.zeros(2, len(x), x.shape[-1], dtype=torch.float64)
        fill_moments(x.numpy(), mask.numpy(), *moments.numpy())
        mean, variance = moments
        inverse = torch.rsqrt(variance + eps)
        scale = (weight * inverse).to(x.dtype)
        shift = (bias - mean * weight * inverse).to(x.dtype)
        ctx.save_for_backward(x, mask, scale, shift, mean, inverse, count)
        ctx.slope = slope
        moments = moments.to(x.dtype)
        ctx.mark_non_differentiable(moments)
        return _apply(x, scale, shift, mask, slope), moments

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        _: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, mask, scale, shift, mean, inverse, count = ctx.saved_tensors
        grad = grad.contiguous()
        total, with_x = _reduce(grad, x, scale, shift, mask, ctx.slope)
        with_normalised = inverse * (with_x - mean * total)
        # d/dx = scale * (g - mean of g - normalised x * mean of (g * normalised x))
        slope_x = -scale * inverse * with_normalised / count
        constant = -scale * total / count - slope_x * mean
        grad_x = _grad_input(
            grad, x, scale, shift, mask, ctx.slope, slope_x.to(x.dtype), constant.to(x.dtype)
        )
        grad_weight, grad_bias = with_normalised.sum(dim=0), total.sum(dim=0)
        return grad_x, grad_weight.to(x.dtype), grad_bias.to(x.dtype), None, None, None


def _everything(x: Tensor) -> Tensor:
    """Build the mask that leaves nothing out."""
    return torch.ones(x.shape[:2], dtype=torch.bool)


def _apply(x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, slope: float) -> Tensor:
    y = torch.empty_like(x)
    fill_output(x.numpy(), scale.numpy(), shift.numpy(), mask.numpy(), _like(slope, x), y.numpy())
    return y


def _reduce(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, slope: float
) -> Tensor:
    """Sum g and g * x over the entries, g the gradient before rectifying; (2, g, C) float64."""
    sums = torch.zeros(2, *scale.shape, dtype=torch.float64)
    sum_gradients(
        grad.numpy(),
        x.numpy(),
        scale.numpy(),
        shift.numpy(),
        mask.numpy(),
        _like(slope, x),
        *sums.numpy(),
    )
    return sums


def _grad_input(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor,
    slope: float,
    slope_x: Tensor,
    constant: Tensor,
) -> Tensor:
    """Give g * scale + x * slope_x + constant, g the gradient before rectifying."""
    grad_x = torch.empty_like(x)
    fill_grad_input(
        grad.numpy(),
        x.numpy(),
        scale.numpy(),
        shift.numpy(),
        mask.numpy(),
        _like(slope, x),
        slope_x.numpy(),
        constant.numpy(),
        grad_x.numpy(),
    )
    return grad_x


def _like(number: float, x: Tensor) -> np.floating[Any]:
    """Give `number` the precision of `x`, or the kernels compute in float64."""
    return np.float64(number) if x.dtype == torch.float64 else np.float32(number)
