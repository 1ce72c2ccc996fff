"""In which order does a cloud best cover its shape? Farthest points first. NumPy and numba only.

A cloud in farthest-point order is sampled by cutting it: its first k points are what farthest-point
sampling of k would choose from the same start.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Int64
from numba import njit

# Points handled together: the farthest is sought among blocks, then within one.
_BLOCK = 256


def farthest_order(
    points: Float32[np.ndarray, "P 3"], count: int | None = None, start: int = 0
) -> Int64[np.ndarray, " count"]:
    """Order points so that each is the farthest from all before it.

    Args:
        points: a finite cloud.
        count: how many points to order; None orders all.
        start: which point comes first.

    Returns:
        Rows of `points`, each at most once. Of equally far points the lowest row comes first.

    Raises:
        ValueError: `count` or `start` asks for a point that the cloud does not have.
    """
    num_points = len(points)
    count = num_points if count is None else count
    if not 0 <= count <= num_points:
        raise ValueError(f"count {count}: must be from 0 to the {num_points} points of the cloud")
    if not 0 <= start < num_points:
        raise ValueError(f"start {start}: must be from 0 to {num_points - 1}, a row of the cloud")
    order = np.empty(count, dtype=np.int64)
    x, y, z = (np.ascontiguousarray(points[:, axis]) for axis in range(3))
    _order_farthest(x, y, z, start, order)
    return order


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
@no_type_check
def _order_farthest(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, start: int, order: np.ndarray
) -> None:
    """Fill `order`. Distances stay float32 and uncontracted: the same bits on any machine.

    Written so that the compiler vectorises: loops run over slices, and the farthest is sought in
    the distances' bits read as integers, which order alike from zero up and keep the mark -1 below.
    """
    num_points = len(x)
    distance = np.full(num_points, np.float32(np.inf))  # squared, to the nearest chosen point
    bits = distance.view(np.int32)
    block_max = np.empty((num_points + _BLOCK - 1) // _BLOCK, dtype=np.int32)
    chosen = start
    for step in range(len(order)):
        order[step] = chosen
        distance[chosen] = np.float32(-1.0)
        px, py, pz = x[chosen], y[chosen], z[chosen]
        for block in range(len(block_max)):
            within = slice(block * _BLOCK, (block + 1) * _BLOCK)
            block_x, block_y, block_z = x[within], y[within], z[within]
            block_distance, block_bits = distance[within], bits[within]
            for i in range(len(block_distance)):
                dx, dy, dz = block_x[i] - px, block_y[i] - py, block_z[i] - pz
                candidate = dx * dx + dy * dy + dz * dz
                nearest = block_distance[i]
                block_distance[i] = candidate if candidate < nearest else nearest
            farthest = np.int32(-1)
            for i in range(len(block_bits)):
                farthest = max(farthest, block_bits[i])
            block_max[block] = farthest
        block = np.argmax(block_max)
        chosen = block * _BLOCK
        while chosen < num_points - 1 and bits[chosen] != block_max[block]:
            chosen += 1
