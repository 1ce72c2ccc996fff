"""How well does a task's network do on clouds that it did not learn? Measured over all ranks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from picpoint.batch import CloudBatch, move_batch
from picpoint.data.clouds import evaluation_clouds
from picpoint.data.dataset import Dataset
from picpoint.losses.gather import global_sum, num_ranks, this_rank
from picpoint.scores import (
    PartScores,
    accuracy,
    confusion,
    mean_class_accuracy,
    scene_figures,
    shape_iou,
)
from picpoint.task_model import TaskNetwork
from picpoint.train.finetune_settings import FinetuneConfig
from picpoint.train.finite import check_scores
from picpoint.train.precision import ResolvedPrecision, autocast
from picpoint.train.room_evaluation import room_confusion


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: by name, each 0..1; `*_voted` where probabilities of several views were added.
        confusion: row of the true class, column of the predicted one; of points, for parts
            and scenes.
        miou_of_class: mean over the shapes of each class that occurs, for parts.
    """

    figures: dict[str, float]
    confusion: Int64[Tensor, "classes classes"]
    miou_of_class: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def evaluate(
    network: TaskNetwork,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: FinetuneConfig,
    precision: ResolvedPrecision,
    device: torch.device,
    votes: int = 0,
) -> Evaluation:
    """Measure a network; a collective, which every rank calls. It stays in evaluation mode.

    Args:
        network: of the task.
        dataset: the clouds.
        rows: manifest index of each cloud to measure on.
        config: of the run.
        precision: of the forward pass.
        device: where this rank computes.
        votes: how often each cloud is shown besides, scaled anew; 0 for not at all.

    Raises:
        NonFiniteLossError: the network's scores are no numbers.
    """
    network.eval()
    own = rows[this_rank() :: num_ranks()]
    if config.data.subset == "crop":
        counts = room_confusion(network, dataset, own, config, precision, device)
        counts = global_sum(counts.to(device))
        return Evaluation(scene_figures(counts), counts.cpu())
    tally = _Tally(config, dataset, device)
    voted = _Tally(config, dataset, device) if votes else None
    for batches in _views_of(dataset, own, config, votes):
        first = move_batch(batches[0], device)
        with autocast(precision, device):
            scores = network(first).float()
        tally.add(first, scores)
        if voted is not None:
            summed = scores.softmax(-1)
            for batch in batches[1:]:
                with autocast(precision, device):
                    again = network(move_batch(batch, device)).float().softmax(-1)
                summed = summed + again
            voted.add(first, summed)
    measured = tally.result()
    if voted is None:
        return measured
    with_votes = {f"{name}_voted": value for name, value in voted.result().figures.items()}
    return replace(measured, figures=measured.figures | with_votes)


def _views_of(
    dataset: Dataset, rows: Int64[np.ndarray, " n"], config: FinetuneConfig, votes: int
) -> Iterator[tuple[CloudBatch, ...]]:
    """Give batches of the same clouds, unchanged first and then once for each vote.

    For parts every vote would need its points in the same order, which no vote changes: a factor
    for all axes keeps the farthest-point order.
    """
    streams = [
        evaluation_clouds(dataset, rows, config.eval_batch, config.data, config.view, vote)
        for vote in range(votes + 1)
    ]
    return zip(*streams, strict=True)


class _Tally:
    """Counts over the batches of a rank."""

    def __init__(self, config: FinetuneConfig, dataset: Dataset, device: torch.device) -> None:
        info = dataset.info
        self.info, self.task = info, config.task
        size = len(info.class_names if config.task == "classify" else info.part_names)
        self.confusion = torch.zeros(size, size, dtype=torch.int64, device=device)
        # By convention (over an object's own parts, over all) and class.
        shape = (2, len(info.class_names))
        self.overlap = torch.zeros(shape, dtype=torch.float64, device=device)
        self.shapes = torch.zeros(shape[1], dtype=torch.float64, device=device)

    def add(self, batch: CloudBatch, scores: Float[Tensor, "B *N classes"]) -> None:
        """Count the predictions of one batch."""
        check_scores(scores, f"clouds such as {batch.keys[0]}")
        if self.task == "classify":
            self.confusion += confusion(scores.argmax(-1), batch.labels, len(self.confusion))
            return
        if self.task == "scenes":
            truth = batch.point_labels.flatten()
            self.confusion += confusion(scores.argmax(-1).flatten(), truth, len(self.confusion))
            return
        for cloud, label in enumerate(batch.labels.tolist()):
            start, stop = self.info.parts_of_class[self.info.class_names[label]]
            truth = batch.point_labels[cloud]
            own = scores[cloud, :, start:stop].argmax(-1) + start
            parts = range(start, stop)
            self.confusion += confusion(own, truth, len(self.confusion))
            self.overlap[0, label] += shape_iou(own, truth, parts)
            self.overlap[1, label] += shape_iou(scores[cloud].argmax(-1), truth, parts)
            self.shapes[label] += 1

    def result(self) -> Evaluation:
        """Give the figures over all ranks."""
        counts = global_sum(self.confusion)
        if self.task == "classify":
            figures = {
                "accuracy": accuracy(counts),
                "mean_class_accuracy": mean_class_accuracy(counts),
            }
            return Evaluation(figures, counts.cpu())
        if self.task == "scenes":
            return Evaluation(scene_figures(counts), counts.cpu())
        overlap, shapes = global_sum(self.overlap), global_sum(self.shapes)
        own, of_all = PartScores(overlap[0], shapes), PartScores(overlap[1], shapes)
        figures = {
            "instance_miou": own.instance_miou,
            "class_miou": own.class_miou,
            "instance_miou_of_all_parts": of_all.instance_miou,
            "class_miou_of_all_parts": of_all.class_miou,
            "point_accuracy": accuracy(counts),
        }
        means = zip(self.info.class_names, (overlap[0] / shapes).tolist(), strict=True)
        of_class = {name: mean for name, mean in means if not math.isnan(mean)}
        return Evaluation(figures, counts.cpu(), of_class)
