"""What is the largest, and what the mean, of each feature over the points of a cloud?"""

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from picpoint.ops.backend import backend_of


def max_and_mean(features: Float[Tensor, "B N C"]) -> Float[Tensor, "B 2*C"]:
    """Pool each cloud's features: the maxima, then the means; float32 or float64.

    The gradient of a maximum goes to the first point that has it.
    """
    if backend_of(features) == "numba":
        return cast(Tensor, _MaxAndMean.apply(features))
    return max_and_mean_plain(features)


def max_and_mean_plain(features: Float[Tensor, "B N C"]) -> Float[Tensor, "B 2*C"]:
    """Do what `max_and_mean` does in plain torch."""
    return torch.cat([features.max(dim=1).values, features.mean(dim=1)], dim=-1)


class _MaxAndMean(torch.autograd.Function):
    """The numba kernels as a torch function: one pass over the features each way."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
    ) -> Tensor:
        features = features.contiguous()
        num_clouds, ctx.num_points, width = features.shape
        pooled = features.new_empty(num_clouds, 2 * width)
        point = torch.empty(num_clouds, width, dtype=torch.int32)
        _pool(features.numpy(), pooled.numpy(), point.numpy())
        ctx.save_for_backward(point)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> Tensor:
        (point,) = ctx.saved_tensors
        grad_max, grad_mean = grad.chunk(2, dim=-1)
        per_point = (grad_mean / ctx.num_points)[:, None]
        grad_features = per_point.repeat(1, ctx.num_points, 1)
        return grad_features.scatter_add_(1, point.long()[:, None], grad_max[:, None])


@njit(cache=True, nogil=True)
@no_type_check
def _pool(features: np.ndarray, pooled: np.ndarray, point: np.ndarray) -> None:
    """Fill `pooled` (B, 2C) and which point is largest (B, C). A NaN is passed on by both."""
    num_clouds, num_points, width = features.shape
    for cloud in range(num_clouds):
        best, mean, where = pooled[cloud, :width], pooled[cloud, width:], point[cloud]
        for c in range(width):
            best[c] = features[cloud, 0, c]
            mean[c] = 0
            where[c] = 0
        for i in range(num_points):
            row = features[cloud, i]
            for c in range(width):
                value = row[c]
                mean[c] += value
                better = (value > best[c]) | (value != value)
                best[c] = value if better else best[c]
                where[c] = np.int32(i) if better else where[c]
        for c in range(width):
            mean[c] /= num_points
