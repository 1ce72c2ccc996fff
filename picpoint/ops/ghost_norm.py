"""How are features normalised so that the number of ranks does not change the objective?

BatchNorm's statistics depend on which shapes share a batch. Here they are taken over *ghost
batches*: groups of `ghost_batch` consecutive shapes of the global batch, the same for one rank as
for eight. Running statistics are averaged over all ghosts of the global batch, once per step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed, nn

from picpoint.ops.normalise import normalise, scale_and_shift


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of each ghost (g of them) and channel.

    Attributes:
        mean: average over the entries of the ghost.
        variance: biased variance over the same entries.
        count: how many entries; 0 where all are masked, and then mean and variance are 0.
    """

    mean: Float[Tensor, "g C"]
    variance: Float[Tensor, "g C"]
    count: Float[Tensor, " g"]


def moments_from_sums(
    total: Float[Tensor, "g C"], squares: Float[Tensor, "g C"], count: Float[Tensor, " g"]
) -> Moments:
    """Turn sums and sums of squares into moments.

    Args:
        total: sum of the entries of each ghost; float64, or sums of values shifted near zero, as
            the difference below cancels.
        squares: sum of their squares.
        count: number of entries.
    """
    divisor = count.clamp(min=1).to(total.dtype)[:, None]
    mean = total / divisor
    return Moments(mean, (squares / divisor - mean.square()).clamp(min=0), count)


class GhostBatchNorm(nn.Module):
    """BatchNorm over ghost batches, channels last.

    In training, each group of `ghost_batch` consecutive shapes is normalised by its own statistics,
    and these are set aside until `update_running_statistics` is called. In evaluation, the running
    statistics are used.

    Args:
        num_features: C.
        ghost_batch: shapes that share their statistics.
        eps: added to the variance.
        momentum: weight of the newest step in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, ghost_batch: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if ghost_batch < 1:
            raise ValueError(f"ghost_batch={ghost_batch}: a ghost batch holds at least 1 shape")
        self.num_features = num_features
        self.ghost_batch = ghost_batch
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        # Sums of mean, of unbiased variance, and number of ghosts since the last update, in one
        # float64 vector. Not a buffer: DDP would overwrite it with rank 0's.
        self._pending: Tensor | None = None

    def forward(
        self,
        x: Float[Tensor, "B *mid C"],
        mask: Bool[Tensor, "B *mid"] | None = None,
        slope: float = 1.0,
    ) -> Float[Tensor, "B *mid C"]:
        """Normalise `x`, and rectify it if asked to.

        Args:
            x: one or more entries per shape; B is a multiple of `ghost_batch` in training.
            mask: False for entries that do not count (their output is finite, and of no meaning).
            slope: what negative results are multiplied by: 1 leaves them, 0 is ReLU, between is
                LeakyReLU. Fused, as it costs a pass over memory otherwise.

        Raises:
            ValueError: in training, B is not a multiple of `ghost_batch`, or a ghost is one entry.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            ghosts = wide.reshape(self.num_ghosts(len(x)), -1, self.num_features)
            if ghosts.shape[1] == 1:
                raise ValueError(
                    f"ghost_batch={self.ghost_batch} where a shape is one entry: normalised "
                    "by itself it is 0 whatever it was, so nothing is learnt; set it to 2 or more"
                )
            weights = None if mask is None else mask.reshape(ghosts.shape[:2])
            y, moments = normalise(ghosts, self.weight, self.bias, weights, self.eps, slope)
            mean, variance = moments
            self._set_aside(Moments(mean, variance, _count_entries(ghosts, weights)))
        else:
            scale, shift = self.running_affine()
            rows = wide.reshape(1, -1, self.num_features)
            y = scale_and_shift(rows, scale[None].to(wide), shift[None].to(wide), slope)
        return y.reshape(x.shape).to(x.dtype)

    def num_ghosts(self, batch: int) -> int:
        """Count the ghosts of `batch` shapes.

        Raises:
            ValueError: `batch` is not a multiple of `ghost_batch`.
        """
        if batch % self.ghost_batch:
            raise ValueError(
                f"{batch} shapes in ghost batches of {self.ghost_batch}: each rank's share of the "
                "batch must be a multiple; change the batch or ghost_batch"
            )
        return batch // self.ghost_batch

    def affine(self, moments: Moments) -> tuple[Float[Tensor, "g C"], Float[Tensor, "g C"]]:
        """Give the scale and shift that normalise by `moments`, and set the moments aside."""
        self._set_aside(moments)
        return self._affine(moments.mean, moments.variance)

    def affine_of_clouds(
        self,
        total: Float[Tensor, "B C"],
        squares: Float[Tensor, "B C"],
        entries: int,
        valid: Bool[Tensor, " B"] | None,
    ) -> tuple[Float[Tensor, "g C"], Float[Tensor, "g C"]]:
        """Give the scale and shift of each ghost from what the entries of its clouds add up to.

        In evaluation there is one ghost, and the running statistics.

        Args:
            total: sum of the entries of each cloud; float64.
            squares: sum of their squares.
            entries: how many there are in a cloud.
            valid: False for clouds that enter no statistic.
        """
        if not self.training:
            scale, shift = self.running_affine()
            return scale[None], shift[None]
        per_ghost = (self.num_ghosts(len(total)), self.ghost_batch)
        weight = total.new_ones(per_ghost) if valid is None else valid.view(per_ghost).to(total)
        total, squares = (
            torch.einsum("gs,gsc->gc", weight, sums.view(*per_ghost, -1))
            for sums in (total, squares)
        )
        return self.affine(moments_from_sums(total, squares, weight.sum(dim=1) * entries))

    def running_affine(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Give the scale and shift that normalise by the running statistics."""
        return self._affine(self.running_mean, self.running_var)

    def _affine(
        self, mean: Float[Tensor, "*g C"], variance: Float[Tensor, "*g C"]
    ) -> tuple[Float[Tensor, "*g C"], Float[Tensor, "*g C"]]:
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    @torch.no_grad()
    def _set_aside(self, moments: Moments) -> None:
        """Add the moments of each ghost that has entries to what waits for the update."""
        count = moments.count.double()
        filled = (count > 0).double()
        unbiased = moments.variance.double() * (count / (count - 1).clamp(min=1))[:, None]
        sums = torch.cat(
            [filled @ moments.mean.double(), filled @ unbiased, filled.sum().reshape(1)]
        )
        self._pending = sums if self._pending is None else self._pending + sums

    def _take_pending(self) -> Float[Tensor, " sums"]:
        """Give the sums set aside, zero where there are none, and forget them."""
        pending, self._pending = self._pending, None
        if pending is None:
            return self.running_mean.new_zeros(2 * self.num_features + 1, dtype=torch.float64)
        return pending

    def _absorb(self, sums: Float[Tensor, " sums"]) -> None:
        """Move the running statistics towards the averages of a step; stay where it had none."""
        num_ghosts = sums[-1]
        momentum = self.momentum * (num_ghosts > 0)
        averages = sums[:-1] / num_ghosts.clamp(min=1)
        mean, variance = averages.split(self.num_features)
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (variance - self.running_var)


@torch.no_grad()
def update_running_statistics(module: nn.Module) -> None:
    """Move the running statistics of all GhostBatchNorm inside towards those of this step.

    To be called once per step, on every rank: one collective sums what the ranks set aside.
    """
    norms = [child for child in module.modules() if isinstance(child, GhostBatchNorm)]
    if not norms:
        return
    sums = [norm._take_pending() for norm in norms]
    flat = torch.cat(sums)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(flat)
    for norm, summed in zip(norms, flat.split([len(part) for part in sums]), strict=True):
        norm._absorb(summed)


def _count_entries(
    ghosts: Float[Tensor, "g n C"], mask: Bool[Tensor, "g n"] | None
) -> Float[Tensor, " g"]:
    """Count the entries of each ghost that enter its statistics."""
    if mask is None:
        return ghosts.new_full((len(ghosts),), ghosts.shape[1])
    return mask.sum(dim=1).to(ghosts.dtype)
