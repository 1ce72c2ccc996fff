"""How are tens of thousands of rows contrasted with each other, in memory linear in their number?

The similarities of n rows and m candidates are computed a tile at a time, used and forgotten; the
backward pass computes them again. At 65,536 rows of 512 numbers they would take 17 GB whole.

Source: the log of a sum in one pass, as in Milakov and Gimelshein, arXiv:1805.02867; tiles of a
contrastive loss, as in Cheng et al., arXiv:2410.17243.
"""

# Function.apply carries no full types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx

# Rows and candidates of a tile: 16 MB of similarities in float32.
TILE = 2048
# Units of the last place within which two similarities are the same.
_TIE = 32


def contrast_rows(
    rows: Float[Tensor, "n D"],
    candidates: Float[Tensor, "m D"],
    own: Int64[Tensor, " n"],
    allowed: Bool[Tensor, " m"],
    tile: int = TILE,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Score how well each row finds its partner among all candidates.

    Args:
        rows: already divided by the temperature.
        candidates: of this rank and of all others.
        own: each row's partner, which always is a candidate.
        allowed: which candidates rows are contrasted with.
        tile: rows, and candidates, that are compared at once.

    Returns:
        The cross-entropy of each row, and whether its partner came first; a tie is not a find, so
        that embeddings that have collapsed to one point score 0.
    """
    positive = (rows * candidates[own]).sum(dim=-1)
    others, is_found = _LogSumOfOthers.apply(rows, candidates, own, allowed, tile)
    return torch.logaddexp(others, positive) - positive, is_found


class _LogSumOfOthers(torch.autograd.Function):
    """Log of the sum of the exponentials over all allowed candidates but the own, for each row.

    A row without any such candidate has -inf, and no gradient. Also, whether all of them are less
    similar than the own by more than rounding.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, rows: Tensor, candidates: Tensor, own: Tensor, allowed: Tensor, tile: int
    ) -> tuple[Tensor, Tensor]:
        log_sum = rows.new_full((len(rows),), -torch.inf)
        rival, partner = log_sum.clone(), log_sum.clone()
        for some, others in _tiles(len(rows), len(candidates), tile):
            logits = _logits(rows, candidates, own, allowed, some, others, partner)
            log_sum[some] = torch.logaddexp(log_sum[some], torch.logsumexp(logits, dim=1))
            rival[some] = torch.maximum(rival[some], logits.amax(dim=1))
        # The same sum may be rounded in other ways in other columns.
        is_found = rival < partner - _TIE * torch.finfo(rows.dtype).eps * partner.abs()
        ctx.save_for_backward(rows, candidates, own, allowed, log_sum)
        ctx.tile = tile  # pyright: ignore[reportAttributeAccessIssue]
        ctx.mark_non_differentiable(is_found)
        return log_sum, is_found

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        rows, candidates, own, allowed, log_sum = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        grad_rows, grad_candidates = torch.zeros_like(rows), torch.zeros_like(candidates)
        # exp(-inf - -inf) would be no number where a row has nobody to be contrasted with.
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, torch.inf)
        for some, others in _tiles(len(rows), len(candidates), ctx.tile):  # pyright: ignore[reportAttributeAccessIssue]
            logits = _logits(rows, candidates, own, allowed, some, others, None)
            weights = logits.sub_(log_sum[some, None]).exp_().mul_(grad[some, None])
            grad_rows[some].addmm_(weights, candidates[others])
            grad_candidates[others].addmm_(weights.mT, rows[some])
        return grad_rows, grad_candidates, None, None, None


def _tiles(num_rows: int, num_candidates: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, num_rows, tile):
        for candidate in range(0, num_candidates, tile):
            yield slice(row, row + tile), slice(candidate, candidate + tile)


def _logits(
    rows: Tensor,
    candidates: Tensor,
    own: Tensor,
    allowed: Tensor,
    some: slice,
    others: slice,
    partner: Tensor | None,
) -> Float[Tensor, "a b"]:
    """Compare a tile; -inf for what nobody may see and for the own, which go to `partner`."""
    logits = rows[some] @ candidates[others].mT
    place = own[some] - others.start
    row = ((place >= 0) & (place < logits.shape[1])).nonzero()[:, 0]
    if partner is not None:
        partner[some.start + row] = logits[row, place[row]]
    logits[row, place[row]] = -torch.inf
    return logits.masked_fill_(~allowed[others], -torch.inf)
