"""What does a frozen point encoder say of labelled clouds?"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from picpoint.batch import move_batch
from picpoint.data.clouds import CloudDataConfig, CloudView, evaluation_clouds
from picpoint.data.dataset import Dataset
from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.evaluate.frozen import FeatureSet
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.task_model import needs_farthest_first


@torch.no_grad()
def encode_clouds(
    encoder: Dgcnn | PointNext,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: CloudDataConfig,
    batch_size: int,
    device: torch.device,
) -> FeatureSet:
    """Give the pooled feature of each cloud, in evaluation mode.

    Args:
        encoder: stays as it is.
        dataset: the clouds.
        rows: manifest index of each.
        config: how they are read; nothing is changed at random.
        batch_size: clouds at once.
        device: where it computes; the encoder is moved there.
    """
    encoder.to(device).eval()
    view = CloudView(config.num_points, needs_farthest_first(encoder.config))
    pooled = [
        encoder(move_batch(batch, device).points).pooled.float().cpu()
        for batch in evaluation_clouds(dataset, rows, batch_size, config, view)
    ]
    return FeatureSet(torch.cat(pooled).numpy(), dataset.labels[rows])


@torch.no_grad()
def calibrate(
    encoder: Dgcnn | PointNext,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: CloudDataConfig,
    seed: int,
    device: torch.device,
) -> None:
    """Set BatchNorm's statistics to plain averages over clouds, dealt to ghost batches by a seed.

    An encoder that was never trained has statistics of nothing, and would be compared unfairly.
    """
    norms = [each for each in encoder.modules() if isinstance(each, GhostBatchNorm)]
    ghost = norms[0].ghost_batch
    dealt = np.random.default_rng(seed).permutation(rows)[: len(rows) // ghost * ghost]
    encoder.to(device).train()
    view = CloudView(config.num_points, needs_farthest_first(encoder.config))
    for batch in evaluation_clouds(dataset, dealt, ghost, config, view):
        encoder(move_batch(batch, device).points)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    update_running_statistics(cast(nn.Module, encoder))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
