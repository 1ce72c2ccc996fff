"""What is done with the rows of one block of edges? The passes of ops/edge_blocks.py, in numba.

A block is the edges of the centres `first` ... `last` - 1 of one ghost, counted through the batch;
forward it is filled, mapped by torch and searched, backward filled again and spread.
"""

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
@no_type_check
def fill_hidden(
    near: np.ndarray,
    own: np.ndarray,
    index: np.ndarray,
    distinct: np.ndarray,
    scales: np.ndarray,
    shifts: np.ndarray,
    slope: np.floating,
    centres: np.ndarray,
    ghost: int,
    first: int,
    last: int,
    hidden: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Fill rows of `hidden` (rows, C), and add what they count to `sums` (g, C)."""
    k, width = index.shape[1], near.shape[2]
    num_centres = len(own) // len(near)
    scale, shift, centre = scales[ghost], shifts[ghost], centres[ghost]
    zero = near.dtype.type(0)
    moved, total = np.empty((2, width), dtype=near.dtype)
    row = 0
    for i in range(first, last):
        points = near[i // num_centres]
        for c in range(width):
            moved[c] = own[i, c] * scale[c] + shift[c]
            total[c] = zero
        for j in range(distinct[i]):
            other, result = points[index[i, j]], hidden[row]
            for c in range(width):
                value = other[c] * scale[c] + moved[c]
                value = (value if value > zero else slope * value) - centre[c]
                result[c] = value
                total[c] += value
            row += 1
        times = 1 + k - distinct[i]
        result = hidden[row - distinct[i]]
        root, more = near.dtype.type(np.sqrt(times)), near.dtype.type(times - 1)
        for c in range(width):
            sums[ghost, c] += total[c] + more * result[c]
            result[c] *= root


@njit(cache=True, nogil=True)
@no_type_check
def find_extremes(
    mapped: np.ndarray,
    distinct: np.ndarray,
    k: int,
    bases: np.ndarray,
    sign: np.ndarray,
    ghost: int,
    first: int,
    last: int,
    extreme: np.ndarray,
    slot: np.ndarray,
) -> None:
    """Fill rows of `extreme` and `slot` (centres, D). A NaN is passed on."""
    width = mapped.shape[1]
    base = bases[ghost]
    best_slot = np.empty(width, dtype=np.int32)
    row = 0
    for i in range(first, last):
        best = extreme[i]
        unit = 1 / mapped.dtype.type(np.sqrt(1 + k - distinct[i]))
        for c in range(width):
            best[c] = mapped[row, c] * unit * sign[c]
            best_slot[c] = 0
        for j in range(1, distinct[i]):
            other, number = mapped[row + j], np.int32(j)
            for c in range(width):
                signed = other[c] * sign[c]
                better = (signed > best[c]) | (signed != signed)
                best[c] = signed if better else best[c]
                best_slot[c] = number if better else best_slot[c]
        row += distinct[i]
        for c in range(width):
            best[c] = best[c] * sign[c] + base[c]
            slot[i, c] = best_slot[c]


@njit(cache=True, nogil=True)
@no_type_check
def locate_extremes(
    given: np.ndarray,
    slot: np.ndarray,
    distinct: np.ndarray,
    k: int,
    first: int,
    last: int,
    rows: np.ndarray,
    scaled: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Find the row of each extreme's edge, and its gradient over the root of its count; sum it."""
    start = 0
    for i in range(first, last):
        unit = 1 / given.dtype.type(np.sqrt(1 + k - distinct[i]))
        for channel in range(given.shape[1]):
            place = slot[i, channel]
            grad = given[i, channel]
            sums[channel] += grad
            rows[i - first, channel] = start + place
            scaled[i - first, channel] = grad * unit if place == 0 else grad
        start += distinct[i]


@njit(cache=True, nogil=True, fastmath={"contract"})
@no_type_check
def add_to_edges(
    scaled: np.ndarray,
    rows: np.ndarray,
    distinct: np.ndarray,
    first_centre: int,
    last_centre: int,
    weight: np.ndarray,
    grad_hidden: np.ndarray,
) -> None:
    """Add the rows of W, times the gradient of the extreme, to the edge that is the extreme.

    One edge of a centre is the extreme of a channel, so this is less than a product with a row for
    every edge. Four rows are added at once, so that a sum is loaded and stored a quarter as often.
    """
    num_channels, width = weight.shape
    order = np.empty(num_channels, dtype=np.int64)
    ends = np.empty(257, dtype=np.int64)
    start = 0
    for i in range(last_centre - first_centre):
        num_edges = distinct[first_centre + i]
        ends[: num_edges + 1] = 0
        for channel in range(num_channels):
            ends[rows[i, channel] - start + 1] += 1
        for edge in range(num_edges):
            ends[edge + 1] += ends[edge]
        for channel in range(num_channels):
            edge = rows[i, channel] - start
            order[ends[edge]] = channel
            ends[edge] += 1
        first = 0
        for edge in range(num_edges):
            last = ends[edge]
            result = grad_hidden[start + edge]
            while first + 4 <= last:
                a, b, c, d = order[first], order[first + 1], order[first + 2], order[first + 3]
                row_a, row_b, row_c, row_d = weight[a], weight[b], weight[c], weight[d]
                by_a, by_b, by_c, by_d = scaled[i, a], scaled[i, b], scaled[i, c], scaled[i, d]
                for x in range(width):
                    result[x] += (by_a * row_a[x] + by_b * row_b[x]) + (
                        by_c * row_c[x] + by_d * row_d[x]
                    )
                first += 4
            while first < last:
                row_a, by_a = weight[order[first]], scaled[i, order[first]]
                for x in range(width):
                    result[x] += by_a * row_a[x]
                first += 1
        start += num_edges


@njit(cache=True, nogil=True, fastmath={"contract"})
@no_type_check
def add_to_weight(
    scaled: np.ndarray,
    rows: np.ndarray,
    num_centres: int,
    hidden: np.ndarray,
    grad_weight: np.ndarray,
) -> None:
    """Add the edges that are extremes, times their gradient, to the row of W of their channel."""
    for channel in range(len(grad_weight)):
        result = grad_weight[channel]
        i = 0
        while i + 4 <= num_centres:
            row_a, row_b = hidden[rows[i, channel]], hidden[rows[i + 1, channel]]
            row_c, row_d = hidden[rows[i + 2, channel]], hidden[rows[i + 3, channel]]
            by_a, by_b = scaled[i, channel], scaled[i + 1, channel]
            by_c, by_d = scaled[i + 2, channel], scaled[i + 3, channel]
            for x in range(len(result)):
                result[x] += (by_a * row_a[x] + by_b * row_b[x]) + (
                    by_c * row_c[x] + by_d * row_d[x]
                )
            i += 4
        while i < num_centres:
            row_a, by_a = hidden[rows[i, channel]], scaled[i, channel]
            for x in range(len(result)):
                result[x] += by_a * row_a[x]
            i += 1


@njit(cache=True, nogil=True)
@no_type_check
def spread_to_rows(
    near: np.ndarray,
    own: np.ndarray,
    index: np.ndarray,
    distinct: np.ndarray,
    scales: np.ndarray,
    shifts: np.ndarray,
    slope: np.floating,
    constants: np.ndarray,
    ghost: int,
    first: int,
    last: int,
    grad_hidden: np.ndarray,
    grad_near: np.ndarray,
    grad_own: np.ndarray,
    grad_affine: np.ndarray,
) -> None:
    """Take the gradient of each hidden row through the rectifier to near, own and the affine."""
    k, width = index.shape[1], near.shape[2]
    num_centres = len(own) // len(near)
    scale, shift, constant = scales[ghost], shifts[ghost], constants[ghost]
    zero = near.dtype.type(0)
    total, with_edge = np.empty((2, width), dtype=near.dtype)
    row = 0
    for i in range(first, last):
        points, grad_points, here = near[i // num_centres], grad_near[i // num_centres], own[i]
        for c in range(width):
            total[c] = 0
            with_edge[c] = 0
        for j in range(distinct[i]):
            times = near.dtype.type(1 + k - distinct[i] if j == 0 else 1)
            root = near.dtype.type(np.sqrt(times))
            other, given = points[index[i, j]], grad_hidden[row]
            result = grad_points[index[i, j]]
            for c in range(width):
                edge = other[c] + here[c]
                passed = root * given[c] + times * constant[c]
                passed = passed if edge * scale[c] + shift[c] > zero else slope * passed
                total[c] += passed
                with_edge[c] += passed * edge
                result[c] += passed * scale[c]
            row += 1
        for c in range(width):
            grad_own[i, c] = total[c] * scale[c]
            grad_affine[0, ghost, c] += with_edge[c]
            grad_affine[1, ghost, c] += total[c]
