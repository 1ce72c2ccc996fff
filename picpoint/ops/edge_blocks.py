"""How are edges built, mapped and reduced a block at a time? The CPU's part of ops/edge_map.py.

A block is the edges of some centres of one ghost, as rows. An edge that stands in its ball w times
has one row, times the root of w; so products of rows count it w times.
"""

from typing import no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor

from picpoint.ops.edge_kernels import (
    add_to_edges,
    add_to_weight,
    fill_hidden,
    find_extremes,
    locate_extremes,
    spread_to_rows,
)

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
            fill_hidden(*self.edges, centres, ghost, first, last, rows, sums)
            block = hidden[:num_rows]
            torch.mm(block, transposed, out=mapped[:num_rows])
            find_extremes(
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
            fill_hidden(*self.edges, means, ghost, first, last, rows, nothing)
            torch.mm(hidden[:num_rows], by_hidden[ghost], out=grad_hidden[:num_rows])
            sums = given_sums[ghost].numpy()
            locate_extremes(given, slots, self.distinct, self.k, first, last, places, scaled, sums)
            add_to_edges(scaled, places, self.distinct, first, last, weights, grad_rows)
            add_to_weight(scaled, places, last - first, rows, grad_weight.numpy())
            spread_to_rows(*self.edges, constants, ghost, first, last, *spread)
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
                fill_hidden(*edges, guess.numpy())
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
