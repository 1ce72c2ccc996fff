"""How do ranks see each other's rows, and how do their gradients add up to the exact one?

The objective of a global batch is the sum of the ranks' shares. A share depends on rows of all
ranks, so the gradient of a row is the sum over ranks of what their shares say of it: that sum is
the backward pass of `gather_rows`. What is left is the sum over ranks of the parameters' gradients;
DistributedDataParallel takes the mean instead, which `ddp_loss` undoes.

Every function here is a collective where a process group exists: all ranks call it, in the same
order. Without one, a process is the only rank.
"""

# torch.distributed and Function.apply carry no full types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def num_ranks() -> int:
    """Give the number of ranks; 1 where there is no process group."""
    grouped = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if grouped else 1


def this_rank() -> int:
    """Give the number of this rank; 0 where there is no process group."""
    return distributed.get_rank() if num_ranks() > 1 else 0


def gather_rows(
    rows: Float[Tensor, "n *features"], rows_per_rank: tuple[int, ...]
) -> Float[Tensor, "total *features"]:
    """Gather the rows of all ranks, in the order of ranks, with gradient.

    Args:
        rows: this rank's rows.
        rows_per_rank: how many rows each rank has; the same tuple on every rank.

    Returns:
        The rows of all ranks. Their gradient is summed over ranks, so that `rows` gets the
        gradient of the sum of whatever the ranks compute from them.

    Raises:
        ValueError: `rows_per_rank` does not fit the process group or `rows`.
    """
    _check_shares(len(rows), rows_per_rank)
    if num_ranks() == 1:
        return rows
    return _GatherRows.apply(rows, rows_per_rank)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def global_sum(tensor: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """Sum a tensor over ranks, elementwise and without gradient."""
    total = tensor.detach().clone()
    if num_ranks() > 1:
        distributed.all_reduce(total)
    return total


def ddp_loss(total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Give what a rank calls `backward` on under DistributedDataParallel.

    Args:
        total: this rank's share of the objective.

    Returns:
        The share times the number of ranks: DDP divides the summed gradients by that number, and
        the gradient of the objective is their sum.
    """
    return total * num_ranks()


class _GatherRows(torch.autograd.Function):
    """All-gather forward, all-reduce and slice backward (gloo has no reduce-scatter).

    The backward collective comes among DDP's own. Autograd orders both by the graph, and the graphs
    of all ranks are alike, so every rank meets them in the same order.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, rows_per_rank: tuple[int, ...]) -> Tensor:
        start = sum(rows_per_rank[: this_rank()])
        ctx.own_rows = slice(start, start + len(rows))  # pyright: ignore[reportAttributeAccessIssue]
        padded = rows.new_zeros((max(rows_per_rank), *rows.shape[1:]))
        padded[: len(rows)] = rows
        shares = [torch.empty_like(padded) for _ in rows_per_rank]
        distributed.all_gather(shares, padded)
        return torch.cat([s[:count] for s, count in zip(shares, rows_per_rank, strict=True)])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        summed = grad.contiguous().clone()
        distributed.all_reduce(summed)
        return summed[ctx.own_rows], None  # pyright: ignore[reportAttributeAccessIssue]


def _check_shares(num_rows: int, rows_per_rank: tuple[int, ...]) -> None:
    ranks, rank = num_ranks(), this_rank()
    if len(rows_per_rank) != ranks or rows_per_rank[rank] != num_rows:
        raise ValueError(
            f"rows_per_rank={rows_per_rank} on rank {rank} of {ranks} with {num_rows} rows: "
            "it must hold each rank's number of rows; take it from the read plan"
        )
