"""What do the features of a few centres say of each point? A mean of the nearest three's."""

import math
from dataclasses import dataclass
from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from picpoint.ops.backend import backend_of

_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Which centres each point takes its features from.

    Attributes:
        index: the three nearest centres, nearest first; where there are fewer, 0 for each absent.
        weight: their shares, which add up to 1: the nearer, the more, by 1 over the distance; 0 for
            an absent one.
    """

    index: Int64[Tensor, "B N 3"]
    weight: Float[Tensor, "B N 3"]


@torch.no_grad()
def nearest_three(points: Float[Tensor, "B N 3"], centres: Float[Tensor, "B M 3"]) -> Interpolation:
    """Find the three centres nearest to each point, and their shares. There is no gradient.

    Paper: three. A small crop has fewer at the coarsest level; then all there are, one at least.
    """
    wide = torch.promote_types(points.dtype, torch.float32)
    points, centres = points.detach().to(wide), centres.detach().to(wide)
    if backend_of(points) == "numba":
        index = torch.empty(points.shape, dtype=torch.int64)
        squared = torch.empty_like(points)
        _search(
            points.contiguous().numpy(),
            centres.mT.contiguous().numpy(),
            index.numpy(),
            squared.numpy(),
        )
        return _share(index, squared)
    return nearest_three_plain(points, centres)


def nearest_three_plain(
    points: Float[Tensor, "B N 3"], centres: Float[Tensor, "B M 3"]
) -> Interpolation:
    """Do what `nearest_three` does in plain torch, with all N x M distances in memory."""
    # Axis by axis, as a tensor of N x M x 3 would be the largest of a network.
    squared = points.new_zeros(len(points), points.shape[1], centres.shape[1])
    for axis in range(points.shape[2]):
        squared += (points[..., axis, None] - centres[:, None, :, axis]).square()
    nearest = squared.sort(dim=-1, stable=True)
    absent = (0, max(0, _NEAREST - centres.shape[1]))
    index = functional.pad(nearest.indices[..., :_NEAREST], absent)
    return _share(index, functional.pad(nearest.values[..., :_NEAREST], absent, value=math.inf))


def interpolate(
    features: Float[Tensor, "B M C"], interpolation: Interpolation
) -> Float[Tensor, "B N C"]:
    """Mix the features of centres for each point."""
    if backend_of(features) == "numba" and features.dtype in (torch.float32, torch.float64):
        weight = interpolation.weight.to(features.dtype)
        return cast(Tensor, _Interpolate.apply(features, interpolation.index, weight))
    return interpolate_plain(features, interpolation)


def interpolate_plain(
    features: Float[Tensor, "B M C"], interpolation: Interpolation
) -> Float[Tensor, "B N C"]:
    """Do what `interpolate` does in plain torch."""
    cloud = torch.arange(len(features), device=features.device)[:, None, None]
    weight = interpolation.weight.to(features.dtype)
    return (features[cloud, interpolation.index] * weight[..., None]).sum(dim=2)


def _share(index: Tensor, squared: Tensor) -> Interpolation:
    closeness = 1 / (squared.sqrt() + 1e-8)
    return Interpolation(index, closeness / closeness.sum(dim=-1, keepdim=True))


class _Interpolate(torch.autograd.Function):
    """The numba kernels as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        index: Tensor,
        weight: Tensor,
    ) -> Tensor:
        features, index, weight = features.contiguous(), index.contiguous(), weight.contiguous()
        mixed = features.new_empty(*index.shape[:2], features.shape[-1])
        _mix(features.numpy(), index.numpy(), weight.numpy(), mixed.numpy())
        ctx.save_for_backward(index, weight)
        ctx.shape = features.shape
        return mixed

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        grad_features = grad.new_zeros(ctx.shape)
        _unmix(grad.contiguous().numpy(), index.numpy(), weight.numpy(), grad_features.numpy())
        return grad_features, None, None


@njit(cache=True, nogil=True)
@no_type_check
def _search(
    points: np.ndarray, coordinates: np.ndarray, index: np.ndarray, squared: np.ndarray
) -> None:
    """Fill `index` and `squared` (B, N, 3); `coordinates` are (B, 3, M). Ties go to lower rows.

    Of M < 3 centres, the absent ones are at an infinite distance.
    """
    num_clouds, num_points, _ = points.shape
    num_centres = coordinates.shape[2]
    distance = np.empty(num_centres, dtype=points.dtype)
    for cloud in range(num_clouds):
        x, y, z = coordinates[cloud, 0], coordinates[cloud, 1], coordinates[cloud, 2]
        for i in range(num_points):
            px, py, pz = points[cloud, i]
            for j in range(num_centres):
                dx, dy, dz = x[j] - px, y[j] - py, z[j] - pz
                distance[j] = dx * dx + dy * dy + dz * dz
            best, rows = squared[cloud, i], index[cloud, i]
            for place in range(3):
                best[place] = np.inf
                rows[place] = 0
            for j in range(num_centres):
                candidate = distance[j]
                if candidate < best[2]:
                    place = 2
                    while place > 0 and candidate < best[place - 1]:
                        best[place] = best[place - 1]
                        rows[place] = rows[place - 1]
                        place -= 1
                    best[place] = candidate
                    rows[place] = j


@njit(cache=True, nogil=True)
@no_type_check
def _mix(features: np.ndarray, index: np.ndarray, weight: np.ndarray, mixed: np.ndarray) -> None:
    """Fill `mixed` (B, N, C)."""
    num_clouds, num_points, width = mixed.shape
    for cloud in range(num_clouds):
        for i in range(num_points):
            a, b, c = index[cloud, i]
            by_a, by_b, by_c = weight[cloud, i]
            row_a, row_b, row_c = features[cloud, a], features[cloud, b], features[cloud, c]
            result = mixed[cloud, i]
            for x in range(width):
                result[x] = by_a * row_a[x] + by_b * row_b[x] + by_c * row_c[x]


@njit(cache=True, nogil=True)
@no_type_check
def _unmix(
    grad: np.ndarray, index: np.ndarray, weight: np.ndarray, grad_features: np.ndarray
) -> None:
    """Add the gradient of each point to those of its centres (B, M, C)."""
    num_clouds, num_points, width = grad.shape
    for cloud in range(num_clouds):
        for i in range(num_points):
            given = grad[cloud, i]
            for place in range(3):
                share, result = (
                    weight[cloud, i, place],
                    grad_features[cloud, index[cloud, i, place]],
                )
                for x in range(width):
                    result[x] += share * given[x]
