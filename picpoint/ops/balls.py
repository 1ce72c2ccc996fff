"""Which points of a cloud lie within a ball around each centre? The first k of them."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from torch import Tensor

from picpoint.ops.backend import backend_of


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The neighbours of each centre (M of them), as many for each.

    Attributes:
        index: rows of the cloud. Where a ball holds fewer than k points, its first fills the rest,
            which changes no maximum but counts in statistics.
        distinct: how many of the k, from the left, are points of their own.
    """

    index: Int64[Tensor, "B M k"]
    distinct: Int64[Tensor, "B M"]


def all_distinct(index: Int64[Tensor, "B M k"]) -> Neighbours:
    """Take neighbours none of which is there twice."""
    return Neighbours(index, index.new_full((), index.shape[-1]).expand(index.shape[:2]))


@torch.no_grad()
def points_in_balls(
    points: Float[Tensor, "B N 3"], centres: Float[Tensor, "B M 3"], radius: float, k: int
) -> Neighbours:
    """Find the first k points nearer than `radius` to each centre, in the order of the cloud.

    In a cloud in farthest-point order the first k cover the ball evenly. Distances are computed in
    float32 or wider. A ball that holds no point (a centre off the cloud) is given row 0.

    Raises:
        ValueError: `radius` or `k` is not positive.
    """
    if not radius > 0 or k < 1:
        raise ValueError(f"radius {radius} and {k} neighbours: both must be above 0")
    points, centres = (
        x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (points, centres)
    )
    match backend_of(points):
        case "numba":
            return _balls_cpu(points, centres, radius, k)
        case "triton":
            from picpoint.ops.triton_kernels import search_balls

            return Neighbours(*search_balls(points, centres, radius**2, k))
        case "plain":
            return points_in_balls_plain(points, centres, radius, k)


def points_in_balls_plain(
    points: Float[Tensor, "B N 3"], centres: Float[Tensor, "B M 3"], radius: float, k: int
) -> Neighbours:
    """Do what `points_in_balls` does in plain torch, with all M x N distances in memory."""
    num_points = points.shape[1]
    squared = (centres[:, :, None] - points[:, None]).square().sum(dim=-1)
    row = torch.arange(num_points, device=points.device).expand(squared.shape)
    # Points outside come after all others.
    first = row.masked_fill(~(squared < radius**2), num_points).sort(dim=-1).values[..., :k]
    if first.shape[-1] < k:
        first = torch.nn.functional.pad(first, (0, k - first.shape[-1]), value=num_points)
    inside = first < num_points
    filler = first[..., :1].where(inside[..., :1], 0)
    return Neighbours(first.where(inside, filler), inside.sum(dim=-1).clamp(min=1))


def _balls_cpu(
    points: Float[Tensor, "B N 3"], centres: Float[Tensor, "B M 3"], radius: float, k: int
) -> Neighbours:
    index = torch.empty(*centres.shape[:2], k, dtype=torch.int64)
    distinct = torch.empty(centres.shape[:2], dtype=torch.int64)
    squared_radius = np.asarray(radius**2, dtype=points.numpy().dtype)[()]
    _search(
        points.mT.contiguous().numpy(),
        centres.contiguous().numpy(),
        squared_radius,
        index.numpy(),
        distinct.numpy(),
    )
    return Neighbours(index, distinct)


@njit(cache=True, nogil=True)
@no_type_check
def _search(
    coordinates: np.ndarray,
    centres: np.ndarray,
    squared_radius: np.floating,
    index: np.ndarray,
    distinct: np.ndarray,
) -> None:
    """Fill `index` (B, M, k) and `distinct` (B, M); `coordinates` are (B, 3, N)."""
    num_clouds, num_centres, k = index.shape
    num_points = coordinates.shape[2]
    inside = np.empty(num_points, dtype=np.uint8)
    for cloud in range(num_clouds):
        x, y, z = coordinates[cloud, 0], coordinates[cloud, 1], coordinates[cloud, 2]
        for centre in range(num_centres):
            cx, cy, cz = centres[cloud, centre]
            for j in range(num_points):
                dx, dy, dz = x[j] - cx, y[j] - cy, z[j] - cz
                inside[j] = dx * dx + dy * dy + dz * dz < squared_radius
            found = 0
            row = index[cloud, centre]
            row[0] = 0
            for j in range(num_points):
                if inside[j]:
                    row[found] = j
                    found += 1
                    if found == k:
                        break
            found = max(found, 1)
            distinct[cloud, centre] = found
            for j in range(found, k):
                row[j] = row[0]
