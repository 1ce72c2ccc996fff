"""How are a ghost's entries summed, scaled and rectified in one pass each? On a CPU, in numba.

The passes of ops/normalise.py. Arrays are x (g, n, C) and mask (g, n), which is False for entries
that do not count: they enter no sum, and their results are 0.
"""

from typing import no_type_check

import numpy as np
from numba import njit

# Entries summed in the data's own precision before they are added to a float64 sum.
_RUN = 32


@njit(cache=True, nogil=True)
@no_type_check
def fill_moments(x: np.ndarray, mask: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    """Fill `mean` and `variance` (g, C) float64, from zero."""
    for ghost in range(len(x)):
        first = 0
        while first < len(mask[ghost]) and not mask[ghost, first]:
            first += 1
        if first == len(mask[ghost]):
            continue
        # Sums of entries less one of them: their squares do not drown the variance.
        offset = x[ghost, first]
        count = _sum_powers(x[ghost], mask[ghost], offset, mean[ghost], variance[ghost])
        for c in range(len(offset)):
            away = mean[ghost, c] / count
            variance[ghost, c] = max(variance[ghost, c] / count - away * away, 0.0)
            mean[ghost, c] = offset[c] + away


@njit(cache=True, nogil=True)
@no_type_check
def _sum_powers(
    x: np.ndarray, mask: np.ndarray, offset: np.ndarray, total: np.ndarray, squares: np.ndarray
) -> int:
    """Add x - offset and its square to `total` and `squares` (C) float64; count the entries."""
    num_entries, width = x.shape
    summed, squared = np.empty((2, width), dtype=x.dtype)
    count = 0
    for start in range(0, num_entries, _RUN):
        summed[:] = 0
        squared[:] = 0
        for entry in range(start, min(start + _RUN, num_entries)):
            if mask[entry]:
                count += 1
                row = x[entry]
                for c in range(width):
                    away = row[c] - offset[c]
                    summed[c] += away
                    squared[c] += away * away
        for c in range(width):
            total[c] += summed[c]
            squares[c] += squared[c]
    return count


@njit(cache=True, nogil=True)
@no_type_check
def fill_output(
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    mask: np.ndarray,
    slope: np.floating,
    y: np.ndarray,
) -> None:
    """Fill `y` (g, n, C)."""
    num_ghosts, num_entries, width = x.shape
    for ghost in range(num_ghosts):
        factor, constant = scale[ghost], shift[ghost]
        for entry in range(num_entries):
            row, result = x[ghost, entry], y[ghost, entry]
            if mask[ghost, entry]:
                for c in range(width):
                    value = row[c] * factor[c] + constant[c]
                    result[c] = value if value > 0 else value * slope
            else:
                for c in range(width):
                    result[c] = 0


@njit(cache=True, nogil=True)
@no_type_check
def sum_gradients(
    grad: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    mask: np.ndarray,
    slope: np.floating,
    total: np.ndarray,
    with_x: np.ndarray,
) -> None:
    """Fill `total` and `with_x` (g, C) float64, from zero."""
    num_ghosts, num_entries, width = x.shape
    summed, product = np.empty((2, width), dtype=x.dtype)
    for ghost in range(num_ghosts):
        factor, constant = scale[ghost], shift[ghost]
        for start in range(0, num_entries, _RUN):
            for c in range(width):
                summed[c] = 0
                product[c] = 0
            for entry in range(start, min(start + _RUN, num_entries)):
                if not mask[ghost, entry]:
                    continue
                row, given = x[ghost, entry], grad[ghost, entry]
                for c in range(width):
                    value = row[c] * factor[c] + constant[c]
                    before = given[c] if value > 0 else given[c] * slope
                    summed[c] += before
                    product[c] += before * row[c]
            for c in range(width):
                total[ghost, c] += summed[c]
                with_x[ghost, c] += product[c]


@njit(cache=True, nogil=True)
@no_type_check
def fill_grad_input(
    grad: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    mask: np.ndarray,
    slope: np.floating,
    slope_x: np.ndarray,
    constant_x: np.ndarray,
    grad_x: np.ndarray,
) -> None:
    """Fill `grad_x` (g, n, C)."""
    num_ghosts, num_entries, width = x.shape
    for ghost in range(num_ghosts):
        factor, constant = scale[ghost], shift[ghost]
        by_x, added = slope_x[ghost], constant_x[ghost]
        for entry in range(num_entries):
            row, given, result = x[ghost, entry], grad[ghost, entry], grad_x[ghost, entry]
            if mask[ghost, entry]:
                for c in range(width):
                    value = row[c] * factor[c] + constant[c]
                    before = given[c] if value > 0 else given[c] * slope
                    result[c] = before * factor[c] + (row[c] * by_x[c] + added[c])
            else:
                for c in range(width):
                    result[c] = 0
