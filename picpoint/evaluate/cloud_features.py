"""What does a frozen point encoder say of labelled clouds?"""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from picpoint.batch import move_batch
from picpoint.data.clouds import CloudDataConfig, CloudView, evaluation_clouds
from picpoint.data.dataset import Dataset
from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.evaluate.encoded import ProbeError
from picpoint.evaluate.frozen import FeatureSet
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.task_model import needs_farthest_first
from picpoint.train.calibrate import calibrate, deal_to_ghosts


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
def calibrate_on_clouds(
    encoder: Dgcnn | PointNext,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: CloudDataConfig,
    seed: int,
    device: torch.device,
) -> None:
    """Give an encoder the BatchNorm statistics of some clouds, unmoved.

    Args:
        encoder: is moved to `device`.
        dataset: the clouds.
        rows: manifest index of those that statistics may be taken from.
        config: how they are read.
        seed: of the deal to ghost batches.
        device: where it computes.

    Raises:
        ProbeError: the clouds do not fill one ghost batch.
    """
    encoder.to(device)
    norm = next(each for each in encoder.modules() if isinstance(each, GhostBatchNorm))
    dealt = deal_to_ghosts(rows, norm.ghost_batch, seed)
    if len(dealt) == 0:
        raise ProbeError(
            f"statistics=calibrated: {len(rows)} clouds to take them of, {norm.ghost_batch} are "
            "the least; add clouds, or keep those of the weights with statistics=stored"
        )
    view = CloudView(config.num_points, needs_farthest_first(encoder.config))

    def embed(chosen: Int64[Tensor, " b"]) -> None:
        (batch,) = evaluation_clouds(dataset, chosen.numpy(), len(chosen), config, view)
        encoder(move_batch(batch, device).points)

    calibrate(encoder, embed, dealt)
    encoder.eval()
