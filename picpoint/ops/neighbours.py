"""Which points of a cloud are nearest to each of its points? In coordinates or in feature space."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import njit
from torch import Tensor

from picpoint.ops.backend import backend_of

# Keys whose minimum is kept: one or two vector registers of float32.
_BLOCK = 16
# Queries whose keys are computed together: 256 x 1,024 float32 keys stay in a second-level cache.
_ROWS = 256
# Up to this many coordinates the differences themselves are cheap, and exact for twin points.
_FEW_COORDINATES = 4
_LARGEST = np.int32(2**31 - 1)


@torch.no_grad()
def nearest_neighbours(points: Float[Tensor, "B N C"], k: int) -> Int64[Tensor, "B N k"]:
    """Find the k nearest points of each point, nearest first; the point itself is among them.

    Distances are computed in float32 whatever comes in, also under autocast; of equal distances the
    lower row wins on a CPU. There is no gradient.

    Raises:
        ValueError: the clouds have fewer than `k` points.
    """
    if not 1 <= k <= points.shape[1]:
        raise ValueError(
            f"{k} neighbours in clouds of {points.shape[1]} points: ask for 1 to "
            "as many as there are points"
        )
    points = points.detach().float()
    if backend_of(points) == "numba":
        return _nearest_cpu(points, k)
    return nearest_neighbours_plain(points, k)


def nearest_neighbours_plain(points: Float[Tensor, "B N C"], k: int) -> Int64[Tensor, "B N k"]:
    """Do what `nearest_neighbours` does in plain torch, with all N x N distances in memory."""
    with torch.autocast(points.device.type, enabled=False):
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(k, dim=-1, largest=False).indices


def _nearest_cpu(points: Float[Tensor, "B N C"], k: int) -> Int64[Tensor, "B N k"]:
    """Search cloud by cloud and a few hundred queries at a time, so that keys stay in the cache."""
    num_clouds, num_points, width = points.shape
    index = torch.empty(num_clouds, num_points, k, dtype=torch.int64)
    few = width <= _FEW_COORDINATES
    # Near the origin the products below lose fewest digits.
    points = points - points.mean(dim=1, keepdim=True)
    squared_norms = points.square().sum(dim=-1)
    keys = torch.empty(_ROWS, num_points)
    for cloud, norms, rows_of_cloud in zip(points, squared_norms, index, strict=True):
        for start in range(0, num_points, _ROWS):
            rows = rows_of_cloud[start : start + _ROWS]
            block = keys[: len(rows)]
            if few:
                _difference_keys(cloud.T.contiguous().numpy(), start, block.numpy())
            else:
                # |x_i - x_j|^2 - |x_i|^2: the last term is the same for all candidates of a query.
                torch.addmm(norms, cloud[start : start + _ROWS], cloud.T, alpha=-2, out=block)
            _select_smallest(block.numpy().view(np.int32), rows.numpy())
    return index


@njit(cache=True, nogil=True)
@no_type_check
def _difference_keys(coordinates: np.ndarray, start: int, keys: np.ndarray) -> None:
    """Fill `keys` (R, N) with squared distances of points start ... start + R to all points."""
    width, num_points = coordinates.shape
    for row in range(len(keys)):
        for j in range(num_points):
            keys[row, j] = np.float32(0)
        for axis in range(width):
            here = coordinates[axis, start + row]
            for j in range(num_points):
                difference = coordinates[axis, j] - here
                keys[row, j] += difference * difference


@njit(cache=True, nogil=True)
@no_type_check
def _select_smallest(bits: np.ndarray, index: np.ndarray) -> None:
    """Fill each row of `index` (R, k) with the columns of the k smallest keys, in rising order.

    `bits` (R, N) are float32 keys read as int32. The k-th smallest of the minima of blocks bounds
    the k-th smallest key, so few blocks need a second look; what is found there is ranked by
    counting, without a branch that depends on the data.
    """
    num_rows, num_keys = bits.shape
    k = index.shape[1]
    num_blocks = (num_keys + _BLOCK - 1) // _BLOCK
    ordered = np.full(num_blocks * _BLOCK, _LARGEST)
    minima = np.empty(num_blocks, dtype=np.int32)
    candidates = np.empty(num_blocks * _BLOCK, dtype=np.int64)
    for row in range(num_rows):
        for j in range(num_keys):
            value = bits[row, j]
            # Negative floats order backwards: flip all but the sign.
            ordered[j] = value ^ ((value >> np.int32(31)) & _LARGEST)
        for block in range(num_blocks):
            smallest = _LARGEST
            for j in range(block * _BLOCK, (block + 1) * _BLOCK):
                smallest = min(smallest, ordered[j])
            minima[block] = smallest
        bound = _bound(minima, k)
        found = _collect(ordered, minima, bound, num_keys, k, candidates)
        for i in range(found):
            candidate = candidates[i]
            rank = 0
            for j in range(found):
                rank += candidates[j] < candidate
            if rank < k:
                index[row, rank] = candidate & _LARGEST


@njit(cache=True, nogil=True)
@no_type_check
def _bound(minima: np.ndarray, k: int) -> np.int32:
    """Give the k-th smallest of the minima, or the largest number where there are fewer."""
    if len(minima) < k:
        return _LARGEST
    bound = -_LARGEST - np.int32(1)
    # Indices and conditional values, not iteration and branches: four times faster.
    for i in range(len(minima)):
        value = minima[i]
        smaller = np.int32(0)
        for j in range(len(minima)):
            smaller += np.int32(1) if minima[j] < value else np.int32(0)
        bound = max(bound, value if smaller < k else bound)
    return bound


@njit(cache=True, nogil=True)
@no_type_check
def _collect(
    ordered: np.ndarray,
    minima: np.ndarray,
    bound: np.int32,
    num_keys: int,
    k: int,
    candidates: np.ndarray,
) -> int:
    """Gather keys below the bound, and the first k at it, with the column in the lower half."""
    found, ties = 0, 0
    for block in range(len(minima)):
        if minima[block] < bound or (minima[block] == bound and ties < k):
            for j in range(block * _BLOCK, min((block + 1) * _BLOCK, num_keys)):
                tie = ordered[j] == bound
                candidates[found] = (np.int64(ordered[j]) << 32) | j
                found += ordered[j] < bound or (tie and ties < k)
                ties += tie
    return found
