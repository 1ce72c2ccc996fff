"""How are edges built, mapped and reduced a block at a time? The CPU's part of ops/edge_map.py.

A block is the edges of some centres of one ghost, as rows. An edge that stands in its ball w times
has one row, times the root of w; so products of rows count it w times.
"""

from typing import no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Edges built together: this many mapped features, which stay in a second-level cache.
_BLOCK = 2**17
_STRIP = 64  # Columns whose products with all to the right are taken together.


class EdgeBlocks:
    """The edges of a batch, in blocks. Centres are counted through the batch."""

    def __init__(
        self,
        near: Tensor,
        own: Tensor,
        scale: Tensor,
        shift: Tensor,
        index: Tensor,
        distinct: Tensor,
        valid: Tensor | None,
        slope: float,
    ) -> None:
        self.like = near
        self.k, self.width = index.shape[-1], near.shape[-1]
        self.shape = own.shape
        self.distinct = distinct.flatten().numpy()
        self.edges = (
            near.numpy(),
            own.flatten(0, 1).numpy(),
            index.flatten(0, 1).numpy(),
            self.distinct,
            scale.numpy(),
            shift.numpy(),
            near.numpy().dtype.type(slope),
        )
        valid = torch.ones(len(own), dtype=torch.bool) if valid is None else valid
        valid_clouds = valid.view(len(scale), -1).sum(dim=1).clamp(min=1)
        # How many edges of each ghost count; (g, 1).
        self.entries = (valid_clouds * own.shape[1] * self.k).double()[:, None]
        self.rows = max(_BLOCK // self.width // 2, self.k)
        clouds_per_ghost = len(own) // len(scale)
        cuts = _cut(self.distinct, valid.numpy(), clouds_per_ghost, self.rows)
        per_ghost = clouds_per_ghost * own.shape[1]
        # Ghost, first centre, last + 1, rows.
        self.blocks = [(cut[0] // per_ghost, *cut) for cut in cuts.tolist()]

    def reduce(
        self, weight: Tensor, sign: Tensor, extreme: Tensor, slot: Tensor, with_moments: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fill `extreme` and `slot`; give mean and covariance of the hidden features."""
        num_ghosts = len(self.entries)
        hidden = self.like.new_empty(self.rows, self.width)
        mapped = self.like.new_empty(self.rows, len(weight))
        gram = self.like.new_zeros(num_ghosts, self.width, self.width)
        summed = torch.zeros(num_ghosts, self.width, dtype=torch.float64)
        # Hidden features are taken less something like their mean, so that it drowns no variance.
        centre = self._guess_mean(hidden) if with_moments else torch.zeros_like(summed)
        centre = centre.to(self.like.dtype)
        bases, transposed = (centre @ weight.T).numpy(), weight.T.contiguous()
        centres, sums, rows = centre.numpy(), summed.numpy(), hidden.numpy()
        extremes = (extreme.flatten(0, 1).numpy(), slot.flatten(0, 1).numpy())
        for ghost, first, last, num_rows in self.blocks:
            _fill(*self.edges, centres, ghost, first, last, rows, sums)
            block = hidden[:num_rows]
            torch.mm(block, transposed, out=mapped[:num_rows])
            _find_extremes(
                mapped.numpy(),
                self.distinct,
                self.k,
                bases,
                sign.numpy(),
                ghost,
                first,
                last,
                *extremes,
            )
            if with_moments:
                _add_products(block, gram[ghost])
        if not with_moments:
            return None, None
        gram = (gram.triu() + gram.triu(1).mT).double()
        away = summed / self.entries
        covariance = gram / self.entries[..., None] - away[:, :, None] * away[:, None]
        return centre.double() + away, covariance

    def spread(
        self,
        weight: Tensor,
        slot: Tensor,
        mean: Tensor,
        grad_extreme: Tensor,
        grad_mean: Tensor,
        grad_covariance: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Give the gradients of near, own, scale, shift and weight."""
        like = self.like
        hidden, grad_hidden = like.new_empty(2, self.rows, self.width)
        grad_near, grad_weight = torch.zeros_like(like), torch.zeros_like(weight)
        grad_own = like.new_zeros(self.shape)
        grad_affine = torch.zeros(2, *mean.shape, dtype=torch.float64)
        # What every hidden feature h of a ghost is given by the moments, and per h - mean.
        constants = (grad_mean / self.entries).to(like.dtype).numpy()
        by_hidden = (grad_covariance + grad_covariance.mT) / self.entries[..., None]
        by_hidden = by_hidden.to(like.dtype)
        means = mean.to(like.dtype).numpy()
        given, slots = grad_extreme.to(like).flatten(0, 1).numpy(), slot.flatten(0, 1).numpy()
        most = max((last - first for _, first, last, _ in self.blocks), default=0)
        places = np.empty((most, len(weight)), dtype=np.int32)
        scaled = np.empty((most, len(weight)), dtype=given.dtype)
        given_sums = torch.zeros(len(mean), len(weight), dtype=torch.float64)
        nothing = np.zeros(mean.shape)
        weights, rows, grad_rows = weight.numpy(), hidden.numpy(), grad_hidden.numpy()
        spread = (grad_rows, grad_near.numpy(), grad_own.flatten(0, 1).numpy(), grad_affine.numpy())
        for ghost, first, last, num_rows in self.blocks:
            _fill(*self.edges, means, ghost, first, last, rows, nothing)
            torch.mm(hidden[:num_rows], by_hidden[ghost], out=grad_hidden[:num_rows])
            sums = given_sums[ghost].numpy()
            _locate(given, slots, self.distinct, self.k, first, last, places, scaled, sums)
            _add_to_edges(scaled, places, self.distinct, first, last, weights, grad_rows)
            _add_to_weight(scaled, places, last - first, rows, grad_weight.numpy())
            _spread(*self.edges, constants, ghost, first, last, *spread)
        # The rows of hidden features were less their mean; this is what that left out.
        grad_weight += (given_sums.T @ mean.double()).to(like.dtype)
        grad_scale, grad_shift = grad_affine.to(like.dtype)
        return grad_near, grad_own, grad_scale, grad_shift, grad_weight

    def _guess_mean(self, hidden: Tensor) -> Tensor:
        """Take the mean of the hidden features in each ghost's first block."""
        guess = torch.zeros(len(self.entries), self.width, dtype=torch.float64)
        nothing = np.zeros(guess.shape, dtype=hidden.numpy().dtype)
        seen = -1
        for ghost, first, last, _ in self.blocks:
            if ghost != seen:
                edges = (*self.edges, nothing, ghost, first, last, hidden.numpy())
                _fill(*edges, guess.numpy())
                guess[ghost] /= (last - first) * self.k
            seen = ghost
        return guess


def _add_products(rows: Tensor, gram: Tensor) -> None:
    """Add the products of the columns of `rows` to the upper triangle of `gram`, and to more."""
    for start in range(0, len(gram), _STRIP):
        strip = rows[:, start : start + _STRIP]
        gram[start : start + _STRIP, start:].addmm_(strip.T, rows[:, start:])


@njit(cache=True, nogil=True)
@no_type_check
def _cut(
    distinct: np.ndarray, valid: np.ndarray, clouds_per_ghost: int, most_rows: int
) -> np.ndarray:
    """Cut the centres into blocks of at most `most_rows` edges, within ghosts, of valid clouds."""
    num_centres = len(distinct) // len(valid)
    cuts = np.empty((len(distinct), 3), dtype=np.int64)
    found = 0
    first, rows = 0, 0
    for centre in range(len(distinct)):
        cloud = centre // num_centres
        at_start = centre % num_centres == 0
        border = at_start and (cloud % clouds_per_ghost == 0 or not valid[cloud - 1])
        if rows and (border or not valid[cloud] or rows + distinct[centre] > most_rows):
            cuts[found] = first, centre, rows
            found += 1
            rows = 0
        if valid[cloud]:
            if rows == 0:
                first = centre
            rows += distinct[centre]
    if rows:
        cuts[found] = first, len(distinct), rows
        found += 1
    return cuts[:found]


@njit(cache=True, nogil=True)
@no_type_check
def _fill(
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
def _find_extremes(
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
def _locate(
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
def _add_to_edges(
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
def _add_to_weight(
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
def _spread(
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
