"""What does a linear map of every rectified edge come to at each centre? Without storing the edges.

    edge     e_ij = near_j + own_i
    hidden   h_ij = relu(scale * e_ij + shift)
    mapped   z_ij = W h_ij              -> the largest (or smallest) z_ij of each centre i

This is what is left of a neighbourhood layer after its first map has been taken to the points, and
unlike the first, the map W has to be applied to every edge. So the edges are built some hundred at
a time, in the cache, and built again in the backward pass; neighbours that only fill up a ball are
built once. BatchNorm of z needs no z: its mean is W m and its variance the diagonal of W S W^T,
with m and S the mean and the covariance of the hidden features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from picpoint.ops.balls import Neighbours
from picpoint.ops.gather import edges_plain

# Edges built together.
_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale and shift of each ghost (g of them) and channel."""

    scale: Float[Tensor, "g C"]
    shift: Float[Tensor, "g C"]


@dataclass(frozen=True, slots=True)
class MappedEdges:
    """What the mapped edges come to.

    Attributes:
        extreme: the largest (or smallest) of each centre.
        mean: of the hidden features of each ghost; None where it was not asked for. Both moments
            are float64: what is made of them may be a small difference.
        covariance: of the same, biased.
    """

    extreme: Float[Tensor, "B M D"]
    mean: Float64[Tensor, "g C"] | None
    covariance: Float64[Tensor, "g C C"] | None


def map_edges(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    sign: Float[Tensor, " D"],
    valid: Bool[Tensor, " B"] | None = None,
    with_moments: bool = True,
) -> MappedEdges:
    """Map the rectified edges of each centre, and reduce them to an extreme and to moments.

    Args:
        near: a row of each point; float32 or float64.
        own: a row of each centre.
        neighbours: which points are neighbours of each centre; at most 256.
        affine: what normalises the edges of each ghost.
        weight: W.
        sign: +1 where the largest is wanted, -1 where the smallest.
        valid: False for clouds that enter no moment; their extremes mean nothing.
        with_moments: whether mean and covariance are wanted.
    """
    affine = Affine(affine.scale.to(near.dtype), affine.shift.to(near.dtype))
    weight, sign = weight.to(near.dtype), sign.to(near.dtype)
    # Edges are small differences of large numbers, so this stays float32 also under autocast.
    with torch.autocast(near.device.type, enabled=False):
        if near.device.type != "cpu":
            return map_edges_plain(near, own, neighbours, affine, weight, sign, valid)
        indices = (neighbours.index, neighbours.distinct, valid)
        reduced = _MapEdges.apply(
            near, own, affine.scale, affine.shift, weight, sign, *indices, with_moments
        )
    return MappedEdges(*cast(tuple[Tensor, Tensor | None, Tensor | None], reduced))


def map_edges_plain(
    near: Float[Tensor, "B N C"],
    own: Float[Tensor, "B M C"],
    neighbours: Neighbours,
    affine: Affine,
    weight: Float[Tensor, "D C"],
    sign: Float[Tensor, " D"],
    valid: Bool[Tensor, " B"] | None = None,
) -> MappedEdges:
    """Do what `map_edges` does in plain torch, with all edges in memory."""
    edges = edges_plain(near, own, neighbours)
    ghosts = edges.view(len(affine.scale), -1, near.shape[-1])
    hidden = (ghosts * affine.scale[:, None] + affine.shift[:, None]).relu()
    mapped = (hidden @ weight.T).view(*edges.shape[:-1], -1)
    slot = (mapped * sign.to(mapped)).argmax(dim=2, keepdim=True)
    counted = torch.ones(edges.shape[:-1], dtype=hidden.dtype, device=hidden.device)
    if valid is not None:
        counted = counted * valid[:, None, None]
    share = counted.view(hidden.shape[:-1])
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.einsum("gn,gnc->gc", share, hidden)
    away = hidden - mean[:, None]
    covariance = torch.einsum("gn,gnc,gnd->gcd", share, away, away)
    return MappedEdges(mapped.gather(2, slot)[:, :, 0], mean.double(), covariance.double())


class _MapEdges(torch.autograd.Function):
    """Blocks of edges, built by numba and multiplied by torch."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        near: Tensor,
        own: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        sign: Tensor,
        index: Tensor,
        distinct: Tensor,
        valid: Tensor | None,
        with_moments: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        near, own, scale, shift = (x.contiguous() for x in (near, own, scale, shift))
        edges = _Edges(near, own, scale, shift, _flatten(index, near), distinct.flatten(), valid)
        extreme = near.new_zeros(own.shape[0] * own.shape[1], len(weight))
        slot = torch.zeros(extreme.shape, dtype=torch.uint8)
        # Hidden features are taken less something like their mean, so that it drowns no variance.
        centre = _guess_mean(edges) if with_moments else torch.zeros_like(scale)
        summed, gram = _reduce_blocks(edges, weight, sign, centre, extreme, slot, with_moments)
        mean = covariance = None
        if with_moments:
            away = summed / edges.entries
            mean = centre.double() + away
            spread = gram.double() / edges.entries[..., None]
            covariance = spread - away[:, :, None] * away[:, None]
        ctx.save_for_backward(
            near, own, scale, shift, weight, edges.index, edges.distinct, valid, slot, mean
        )
        ctx.set_materialize_grads(False)
        return extreme.view(*own.shape[:2], -1), mean, covariance

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_extreme: Tensor | None,
        grad_mean: Tensor | None,
        grad_covariance: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        near, own, scale, shift, weight, index, distinct, valid, slot, mean = ctx.saved_tensors
        edges = _Edges(near, own, scale, shift, index, distinct, valid)
        mean = torch.zeros_like(scale) if mean is None else mean.to(near.dtype)
        square = (*mean.shape, mean.shape[-1])
        by_extreme, by_mean, by_covariance = (
            near.new_zeros(shape) if grad is None else grad.reshape(shape)
            for grad, shape in (
                (grad_extreme, slot.shape),
                (grad_mean, mean.shape),
                (grad_covariance, square),
            )
        )
        by_hidden = (by_covariance + by_covariance.mT) / edges.entries[..., None]
        constant = (by_mean / edges.entries).to(near.dtype)
        gradients = _spread_blocks(
            edges, weight, slot, mean, by_extreme, constant, by_hidden.to(near.dtype)
        )
        return *gradients, None, None, None, None, None


class _Edges:
    """The edges of a batch; centres, and the rows of all clouds, are counted through.

    Attributes:
        entries: how many edges of each ghost count, at least 1; (g, 1).
    """

    def __init__(
        self,
        near: Tensor,
        own: Tensor,
        scale: Tensor,
        shift: Tensor,
        index: Tensor,
        distinct: Tensor,
        valid: Tensor | None,
    ) -> None:
        self.near, self.own, self.scale, self.shift = near, own, scale, shift
        self.index, self.distinct = index, distinct
        self.num_clouds, self.num_centres = own.shape[:2]
        self.k = index.shape[1]
        self.rows = max(_ROWS, self.k)
        self.valid = torch.ones(self.num_clouds, dtype=torch.bool) if valid is None else valid
        per_ghost = self.valid.view(len(scale), -1).sum(dim=1).clamp(min=1)
        self.entries = (per_ghost * self.num_centres * self.k).double()[:, None]

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Cut the centres of valid clouds into blocks: ghost, first centre, last + 1, rows."""
        clouds_per_ghost = self.num_clouds // len(self.scale)
        cuts = _cut(self.distinct.numpy(), self.valid.numpy(), clouds_per_ghost, self.rows)
        for first, last, rows in cuts.tolist():
            yield first // (clouds_per_ghost * self.num_centres), first, last, rows

    def fill(self, ghost: int, first: int, last: int, centre: Tensor, hidden: Tensor) -> None:
        """Fill `hidden` with the features of a block less `centre`, times the root of the count."""
        width = self.near.shape[-1]
        _fill(
            self.near.view(-1, width).numpy(),
            self.own.view(-1, width)[first:last].numpy(),
            self.index[first:last].numpy(),
            self.distinct[first:last].numpy(),
            self.scale[ghost].numpy(),
            self.shift[ghost].numpy(),
            centre.numpy(),
            hidden.numpy(),
        )


def _flatten(index: Tensor, near: Tensor) -> Tensor:
    """Turn rows of each cloud into rows of the batch, a line per centre."""
    starts = torch.arange(len(near))[:, None, None] * near.shape[1]
    return (index + starts).flatten(0, 1)


def _guess_mean(edges: _Edges) -> Tensor:
    """Take the mean of the hidden features in each ghost's first block."""
    guess = torch.zeros_like(edges.scale)
    hidden = edges.near.new_empty(edges.rows, edges.near.shape[-1])
    seen = -1
    for ghost, first, last, _ in edges.blocks():
        if ghost != seen:
            edges.fill(ghost, first, last, guess[ghost], hidden)
            summed = torch.zeros(hidden.shape[1], dtype=torch.float64)
            _sum_rows(hidden.numpy(), edges.distinct[first:last].numpy(), edges.k, summed.numpy())
            guess[ghost] = summed / ((last - first) * edges.k)
        seen = ghost
    return guess


def _reduce_blocks(
    edges: _Edges,
    weight: Tensor,
    sign: Tensor,
    centre: Tensor,
    extreme: Tensor,
    slot: Tensor,
    with_moments: bool,
) -> tuple[Tensor, Tensor]:
    """Fill `extreme` and `slot`; sum the hidden features less `centre`, and their products."""
    width = weight.shape[1]
    num_ghosts = len(edges.scale)
    hidden = edges.near.new_empty(edges.rows, width)
    mapped = edges.near.new_empty(edges.rows, len(weight))
    summed = torch.zeros(num_ghosts, width, dtype=torch.float64)
    gram = edges.near.new_zeros(num_ghosts, width, width)
    base = centre @ weight.T
    transposed = weight.T.contiguous()
    for ghost, first, last, rows in edges.blocks():
        edges.fill(ghost, first, last, centre[ghost], hidden)
        torch.mm(hidden[:rows], transposed, out=mapped[:rows])
        counts = edges.distinct[first:last].numpy()
        _find_extremes(
            mapped.numpy(),
            counts,
            edges.k,
            base[ghost].numpy(),
            sign.numpy(),
            extreme[first:last].numpy(),
            slot[first:last].numpy(),
        )
        if with_moments:
            _sum_rows(hidden.numpy(), counts, edges.k, summed[ghost].numpy())
            gram[ghost].addmm_(hidden[:rows].T, hidden[:rows])
    return summed, gram


def _spread_blocks(
    edges: _Edges,
    weight: Tensor,
    slot: Tensor,
    mean: Tensor,
    grad_extreme: Tensor,
    constant: Tensor,
    by_hidden: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of near, own, scale, shift and weight.

    The moments give each hidden feature h of a ghost `constant` + (h - mean) `by_hidden`.
    """
    width = weight.shape[1]
    hidden, grad_hidden = edges.near.new_empty(2, edges.rows, width)
    grad_mapped = edges.near.new_empty(edges.rows, len(weight))
    grad_near, grad_own = torch.zeros_like(edges.near), torch.zeros_like(edges.own)
    grad_scale, grad_shift = torch.zeros(2, *edges.scale.shape, dtype=torch.float64)
    # The hidden features come less their mean; what that leaves out of the product is added here.
    grad_weight = torch.zeros_like(weight)
    for ghost, first, last, rows in edges.blocks():
        edges.fill(ghost, first, last, mean[ghost], hidden)
        counts = edges.distinct[first:last].numpy()
        given = grad_extreme[first:last]
        _place(given.numpy(), slot[first:last].numpy(), counts, edges.k, grad_mapped.numpy())
        block = grad_hidden[:rows]
        torch.mm(hidden[:rows], by_hidden[ghost], out=block)
        block.addmm_(grad_mapped[:rows], weight)
        grad_weight.addmm_(grad_mapped[:rows].T, hidden[:rows])
        grad_weight.addr_(given.sum(dim=0), mean[ghost])
        _spread(
            edges.near.view(-1, width).numpy(),
            edges.own.view(-1, width)[first:last].numpy(),
            edges.index[first:last].numpy(),
            counts,
            edges.scale[ghost].numpy(),
            edges.shift[ghost].numpy(),
            constant[ghost].numpy(),
            block.numpy(),
            grad_near.view(-1, width).numpy(),
            grad_own.view(-1, width)[first:last].numpy(),
            grad_scale[ghost].numpy(),
            grad_shift[ghost].numpy(),
        )
    return grad_near, grad_own, grad_scale.to(mean), grad_shift.to(mean), grad_weight


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
    scale: np.ndarray,
    shift: np.ndarray,
    centre: np.ndarray,
    hidden: np.ndarray,
) -> None:
    """Fill rows of `hidden` (rows, C), one per distinct edge."""
    width, k = near.shape[1], index.shape[1]
    zero = near.dtype.type(0)
    moved = np.empty(width, dtype=near.dtype)
    row = 0
    for i in range(len(own)):
        for c in range(width):
            moved[c] = own[i, c] * scale[c] + shift[c]
        for j in range(distinct[i]):
            other, result = near[index[i, j]], hidden[row]
            for c in range(width):
                value = other[c] * scale[c] + moved[c]
                result[c] = (value if value > zero else zero) - centre[c]
            row += 1
        root = near.dtype.type(np.sqrt(1 + k - distinct[i]))
        if root != 1:
            result = hidden[row - distinct[i]]
            for c in range(width):
                result[c] *= root


@njit(cache=True, nogil=True)
@no_type_check
def _sum_rows(hidden: np.ndarray, distinct: np.ndarray, k: int, summed: np.ndarray) -> None:
    """Add the rows of `hidden`, as often as they count, to `summed` (C)."""
    width = hidden.shape[1]
    total = np.empty(width, dtype=hidden.dtype)
    row = 0
    for i in range(len(distinct)):
        root = hidden.dtype.type(np.sqrt(1 + k - distinct[i]))
        for c in range(width):
            total[c] = root * hidden[row, c]
        for _ in range(1, distinct[i]):
            row += 1
            for c in range(width):
                total[c] += hidden[row, c]
        row += 1
        for c in range(width):
            summed[c] += total[c]


@njit(cache=True, nogil=True)
@no_type_check
def _find_extremes(
    mapped: np.ndarray,
    distinct: np.ndarray,
    k: int,
    base: np.ndarray,
    sign: np.ndarray,
    extreme: np.ndarray,
    slot: np.ndarray,
) -> None:
    """Fill `extreme` and `slot` (M, D). A NaN is passed on."""
    width = mapped.shape[1]
    best_slot = np.empty(width, dtype=np.int32)
    row = 0
    for i in range(len(distinct)):
        best = extreme[i]
        unit = 1 / mapped.dtype.type(np.sqrt(1 + k - distinct[i]))
        for c in range(width):
            best[c] = mapped[row, c] * unit * sign[c]
            best_slot[c] = 0
        row += 1
        for j in range(1, distinct[i]):
            for c in range(width):
                signed = mapped[row, c] * sign[c]
                better = (signed > best[c]) | (signed != signed)
                best[c] = signed if better else best[c]
                best_slot[c] = np.int32(j) if better else best_slot[c]
            row += 1
        for c in range(width):
            best[c] = best[c] * sign[c] + base[c]
            slot[i, c] = best_slot[c]


@njit(cache=True, nogil=True)
@no_type_check
def _place(
    given: np.ndarray, slot: np.ndarray, distinct: np.ndarray, k: int, grad_mapped: np.ndarray
) -> None:
    """Put the gradient of each extreme into the row of its edge, over the root of its count."""
    width = given.shape[1]
    row = 0
    for i in range(len(distinct)):
        for j in range(distinct[i]):
            unit = given.dtype.type(1)
            if j == 0:
                unit = 1 / given.dtype.type(np.sqrt(1 + k - distinct[i]))
            result = grad_mapped[row]
            for c in range(width):
                result[c] = given[i, c] * unit if slot[i, c] == j else 0
            row += 1


@njit(cache=True, nogil=True)
@no_type_check
def _spread(
    near: np.ndarray,
    own: np.ndarray,
    index: np.ndarray,
    distinct: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    constant: np.ndarray,
    grad_hidden: np.ndarray,
    grad_near: np.ndarray,
    grad_own: np.ndarray,
    grad_scale: np.ndarray,
    grad_shift: np.ndarray,
) -> None:
    """Take the gradient of each hidden row through the rectifier to near, own, scale and shift."""
    width, k = near.shape[1], index.shape[1]
    zero = near.dtype.type(0)
    total, with_edge = np.empty((2, width), dtype=near.dtype)
    row = 0
    for i in range(len(own)):
        for c in range(width):
            total[c] = 0
            with_edge[c] = 0
        for j in range(distinct[i]):
            times = near.dtype.type(1 + k - distinct[i] if j == 0 else 1)
            root = near.dtype.type(np.sqrt(times))
            other, given = near[index[i, j]], grad_hidden[row]
            result = grad_near[index[i, j]]
            for c in range(width):
                edge = other[c] + own[i, c]
                passed = root * given[c] + times * constant[c]
                passed = passed if edge * scale[c] + shift[c] > zero else zero
                total[c] += passed
                with_edge[c] += passed * edge
                result[c] += passed * scale[c]
            row += 1
        for c in range(width):
            grad_own[i, c] = total[c] * scale[c]
            grad_shift[c] += total[c]
            grad_scale[c] += with_edge[c]
