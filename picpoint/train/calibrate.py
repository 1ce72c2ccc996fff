"""Which BatchNorm statistics does a network have when it is looked at? Those of unmoved clouds.

Statistics of training are of moved clouds, with the latest steps weighing most, and those of a new
network are of nothing: what is compared has them taken anew, all in this one way.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics


def deal_to_ghosts(
    rows: Int64[np.ndarray, " n"], ghost_batch: int, seed: int
) -> Int64[np.ndarray, " m"]:
    """Deal as many shapes as fill whole ghost batches.

    They are shuffled, because a manifest may be sorted by class and a ghost batch of one class has
    the statistics of that class.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    return shuffled[: len(rows) // ghost_batch * ghost_batch]


def calibrate(
    network: nn.Module,
    embed: Callable[[Int64[Tensor, " b"]], object],
    dealt: Int64[np.ndarray, " m"],
) -> None:
    """Set the statistics that an evaluation uses to their averages over ghost batches.

    Args:
        network: in training mode afterwards.
        embed: has the network see some shapes.
        dealt: whole ghost batches of shapes.
    """
    norms = [module for module in network.modules() if isinstance(module, GhostBatchNorm)]
    network.train()
    for rows in torch.from_numpy(dealt).split(norms[0].ghost_batch):
        embed(rows)
    for norm in norms:
        norm.momentum = 1.0
    update_running_statistics(network)
