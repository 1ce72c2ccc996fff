"""Scores against cases counted by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from picpoint.scores import (
    PartScores,
    accuracy,
    class_accuracies,
    confusion,
    mean_class_accuracy,
    mean_iou,
    shape_iou,
)


def test_confusion_counts_truth_in_rows_and_predictions_in_columns() -> None:
    counts = confusion(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert accuracy(counts) == 0.5
    assert class_accuracies(counts)[:2].tolist() == [0.5, 0.5]
    assert class_accuracies(counts)[2].isnan()
    # IoU: class 0 1/2, class 1 1/3, class 2 0/1.
    assert mean_iou(counts) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    counts = confusion(torch.from_numpy(predicted), torch.from_numpy(truth), 5)
    assert accuracy(counts) == pytest.approx(accuracy_score(truth, predicted))
    assert mean_class_accuracy(counts) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert mean_iou(counts) == pytest.approx(jaccard_score(truth, predicted, average="macro"))


def test_a_class_that_never_occurs_enters_no_mean() -> None:
    counts = confusion(torch.tensor([0, 0, 3]), torch.tensor([0, 0, 3]), 7)
    assert mean_class_accuracy(counts) == 1.0
    assert mean_iou(counts) == 1.0


def test_the_overlap_of_a_shape_counts_absent_parts_as_right() -> None:
    truth = torch.tensor([4, 4, 4, 5])
    predicted = torch.tensor([4, 4, 5, 5])
    # Part 4: 2/3. Part 5: 1/2. Parts 6 and 7 are neither there nor predicted: 1.
    assert shape_iou(predicted, truth, range(4, 8)).item() == pytest.approx((2 / 3 + 1 / 2 + 2) / 4)
    # A part that is predicted and not there counts 0.
    told = torch.tensor([4, 4, 6, 5])
    assert shape_iou(told, truth, range(4, 7)).item() == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_instance_and_class_means_weigh_shapes_and_classes() -> None:
    scores = PartScores(
        total=torch.tensor([2.5, 0.5, 0.0]).double(), shapes=torch.tensor([3.0, 1.0, 0.0]).double()
    )
    assert scores.instance_miou == pytest.approx(3.0 / 4)
    assert scores.class_miou == pytest.approx((2.5 / 3 + 0.5) / 2)
