"""How well were classes and parts told? Accuracy and overlap, as benchmarks define them.

Everything is counted in tensors that may be summed over batches and ranks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def confusion(
    predicted: Int64[Tensor, " n"], truth: Int64[Tensor, " n"], num_classes: int
) -> Int64[Tensor, "classes classes"]:
    """Count predictions: row of the true class, column of the predicted one."""
    cells = truth * num_classes + predicted
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(counts: Int64[Tensor, "classes classes"]) -> float:
    """Give the share of right predictions (overall accuracy), 0..1; 0 where there are none."""
    return (counts.trace().double() / counts.sum().clamp(min=1)).item()


def class_accuracies(counts: Int64[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """Give the share of each class that was told right, 0..1; NaN where there is none of it."""
    return counts.diagonal().double() / counts.sum(dim=1).double()


def mean_class_accuracy(counts: Int64[Tensor, "classes classes"]) -> float:
    """Average the accuracies of the classes that occur."""
    return class_accuracies(counts).nanmean().item()


def mean_iou(counts: Int64[Tensor, "classes classes"]) -> float:
    """Average intersection over union of the classes that occur or were predicted, 0..1.

    Counts are summed over all clouds first, as the scene benchmarks have it.
    """
    right = counts.diagonal().double()
    union = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return (right / union.double()).nanmean().item()


def scene_figures(counts: Int64[Tensor, "classes classes"]) -> dict[str, float]:
    """Give what scene benchmarks tell: mIoU, mean class accuracy, accuracy of all points.

    Of several folds the counts are added first: "6-fold" of S3DIS is one figure of the sum.
    """
    return {
        "miou": mean_iou(counts),
        "mean_class_accuracy": mean_class_accuracy(counts),
        "point_accuracy": accuracy(counts),
    }


def shape_iou(
    predicted: Int64[Tensor, " N"], truth: Int64[Tensor, " N"], parts: range
) -> Float[Tensor, ""]:
    """Average intersection over union of the parts that an object of its class may have, 0..1.

    A part that is neither there nor predicted counts as 1.

    Source: Yi et al., A scalable active framework for region annotation (2016), as PointNet and
    all after it measure on ShapeNetPart.
    """
    ious = []
    for part in parts:
        here, told = truth == part, predicted == part
        union = (here | told).sum()
        ious.append(torch.where(union == 0, 1.0, (here & told).sum() / union.clamp(min=1)))
    return torch.stack(ious).double().mean()


@dataclass(frozen=True, slots=True)
class PartScores:
    """Overlaps of single shapes, summed by class.

    Attributes:
        total: sum of the shapes' overlaps.
        shapes: how many there are.
    """

    total: Float[Tensor, " classes"]
    shapes: Float[Tensor, " classes"]

    @property
    def instance_miou(self) -> float:
        """Mean over all shapes, 0..1."""
        return (self.total.sum() / self.shapes.sum().clamp(min=1)).item()

    @property
    def class_miou(self) -> float:
        """Mean over the classes that occur of the mean over their shapes, 0..1."""
        return (self.total / self.shapes).nanmean().item()
