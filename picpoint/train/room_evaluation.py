"""What does a network say of every point of whole rooms? It sees crops until each point was in one.

Where crops overlap, probabilities are added. Points of a stored room stand for all raw points of
their voxels, and those are counted, each with its own label.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from picpoint.batch import CloudBatch, move_batch
from picpoint.data.cloud_augment import UNCHANGED
from picpoint.data.clouds import CloudItem, collate_clouds, make_item, nearest_rows
from picpoint.data.dataset import NO_CLASS, Dataset, DatasetError
from picpoint.train.finetune_settings import FinetuneConfig
from picpoint.train.finite import check_scores
from picpoint.train.precision import ResolvedPrecision, autocast
from shards.cloud_sets import CloudReader
from shards.clouds import LABEL_COUNTS, Cloud
from shards.member_reader import Request


@torch.no_grad()
def room_confusion(
    network: nn.Module,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: FinetuneConfig,
    precision: ResolvedPrecision,
    device: torch.device,
) -> Int64[Tensor, "classes classes"]:
    """Count raw points by true and predicted class; no collective.

    Args:
        network: gives scores of the points of a CloudBatch, (B, N, classes); in evaluation mode.
        dataset: the rooms.
        rows: manifest index of each.
        config: of the run.
        precision: of the forward pass.
        device: where to compute.

    Raises:
        DatasetError: a room counts other labels than the data set has.
        NonFiniteLossError: the network's scores are no numbers.
    """
    members = (*config.view.members, LABEL_COUNTS)
    reader = CloudReader(dataset.reader.manifest, members=members, cache=config.data.cache)
    num_classes = len(dataset.info.part_names)
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for row in rows.tolist():
        room = reader.read(Request(row))
        assert room is not None  # the reader raises on damage
        if room.label_counts.shape[1] != num_classes:
            raise DatasetError(
                f"{room.source_id!r} counts {room.label_counts.shape[1]} labels, and "
                f"{dataset.info.name} has {num_classes} things; prepare the data set again"
            )
        summed = torch.zeros(room.num_points, num_classes, device=device)
        for items in _covering(room, config):
            batch: CloudBatch = move_batch(collate_clouds(items), device)
            with autocast(precision, device):
                scores = network(batch).float().softmax(-1)
            for item, told in zip(items, scores, strict=True):
                summed.index_add_(0, torch.from_numpy(item.rows).to(device), told)
        check_scores(summed, repr(room.source_id))
        counts += _count(summed, room)
    return torch.from_numpy(counts)


def _covering(room: Cloud, config: FinetuneConfig) -> Iterator[list[CloudItem]]:
    """Give batches of crops, each around the first point that was in none."""
    is_seen = np.zeros(room.num_points, dtype=bool)
    nothing_is_drawn = np.random.default_rng(0)
    while not is_seen.all():
        items: list[CloudItem] = []
        while len(items) < config.eval_batch and not is_seen.all():
            centre = int(is_seen.argmin())
            chosen = nearest_rows(room.points, centre, config.data.num_points)
            is_seen[chosen] = True
            items.append(
                make_item(
                    room,
                    NO_CLASS,
                    chosen,
                    config.data,
                    config.view,
                    UNCHANGED,
                    nothing_is_drawn,
                )
            )
        yield items


def _count(summed: Float[Tensor, "P classes"], room: Cloud) -> Int64[np.ndarray, "classes classes"]:
    """Count the raw points of a room; row of the true class, column of the predicted one."""
    num_classes = summed.shape[1]
    predicted = np.eye(num_classes, dtype=np.int64)[summed.argmax(-1).cpu().numpy()]
    return room.label_counts.astype(np.int64).T @ predicted
