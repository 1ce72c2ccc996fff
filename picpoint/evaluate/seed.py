"""What are all measures of one seed: the pre-trained encoder beside the same one untrained?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.evaluate.probe import ProbeConfig, linear_probe, nearest_neighbour
from picpoint.evaluate.retrieval import retrieval_picture_to_shape, retrieval_shape_to_picture
from picpoint.evaluate.trials import Metric, Trials
from picpoint.evaluate.unseen_views import OtherPictures, UnseenViews, compare_views
from picpoint.linear_probe import ProbeError


@dataclass(frozen=True, slots=True)
class ShapeCounts:
    """How many shapes a seed's split has.

    Attributes:
        num_classes: classes with a labelled shape.
        num_train: shapes that pre-training may see.
        num_train_labelled: those of them that the probes learn from.
        num_held_out: shapes that pre-training never sees; retrieval is among them.
        num_held_out_labelled: those of them that the probes are tested on.
        largest_class_share: share of the labelled held-out shapes in their commonest class.
    """

    num_classes: int
    num_train: int
    num_train_labelled: int
    num_held_out: int
    num_held_out_labelled: int
    largest_class_share: float


@dataclass(frozen=True, slots=True)
class SeedResult:
    """All measures of one seed, of both encoders, on the same shapes.

    Attributes:
        seed: of the run.
        counts: of its shapes.
        pretrained: measures of the trained encoder.
        random_init: of the untrained one.
        views: retrieval with cameras that the run never used; None where it used all.
    """

    seed: int
    counts: ShapeCounts
    pretrained: Mapping[Metric, Trials]
    random_init: Mapping[Metric, Trials]
    views: UnseenViews | None = None


def evaluate_seed(
    seed: int,
    pretrained: EncodedShapes,
    random_init: EncodedShapes,
    config: ProbeConfig,
    others: OtherPictures | None = None,
) -> SeedResult:
    """Take all measures of the pre-trained encoder and of the same one at random initialisation.

    Raises:
        ProbeError: the two do not tell of the same shapes, or the shapes do not suffice.
    """
    if pretrained.keys != random_init.keys or not (
        np.array_equal(pretrained.labels, random_init.labels)
        and np.array_equal(pretrained.held_out, random_init.held_out)
    ):
        raise ProbeError(
            "the two encoders saw different shapes or splits: encode the same for both"
        )
    return SeedResult(
        seed=seed,
        counts=count_shapes(pretrained),
        pretrained=measure(pretrained, config),
        random_init=measure(random_init, config),
        views=None if others is None else compare_views(pretrained, random_init, others),
    )


def measure(shapes: EncodedShapes, config: ProbeConfig) -> dict[Metric, Trials]:
    """Take all four measures of one encoder."""
    return {
        "linear_probe": linear_probe(shapes, config),
        "knn": nearest_neighbour(shapes, config),
        "retrieval_picture_to_shape": retrieval_picture_to_shape(shapes),
        "retrieval_shape_to_picture": retrieval_shape_to_picture(shapes),
    }


def count_shapes(shapes: EncodedShapes) -> ShapeCounts:
    """Count the shapes of a split."""
    labelled = shapes.labels != UNLABELLED
    test_labels = shapes.labels[shapes.probe_test]
    return ShapeCounts(
        num_classes=len(np.unique(shapes.labels[labelled])),
        num_train=int((~shapes.held_out).sum()),
        num_train_labelled=len(shapes.probe_train),
        num_held_out=int(shapes.held_out.sum()),
        num_held_out_labelled=len(test_labels),
        largest_class_share=float(np.bincount(test_labels).max() / len(test_labels)),
    )


def chance_of(metric: Metric, counts: ShapeCounts) -> float:
    """Give the top-1 accuracy of guessing.

    Of a class: always naming the commonest one, the best that a constant guess can do. Of one shape
    or picture among all held-out ones: one over their number.
    """
    match metric:
        case "linear_probe" | "knn":
            return counts.largest_class_share
        case "retrieval_picture_to_shape" | "retrieval_shape_to_picture":
            return 1 / counts.num_held_out
