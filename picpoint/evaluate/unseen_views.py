"""Does an encoder know the shape, or the cameras it was trained with? Arrays in, no torch.

Clouds and pictures are asked to find each other (picpoint/evaluate/retrieval.py) with pictures from
cameras that pre-training drew from, and with pictures of the same shapes from cameras that it never
used. So are shapes that it never saw, and, among as many, shapes that it was trained on: what it
has learnt by heart shows there. A network that was never trained tells how hard the cameras are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.retrieval import retrieval_picture_to_shape, retrieval_shape_to_picture

ShapeGroup = Literal["held_out", "trained"]


@dataclass(frozen=True, slots=True)
class OtherPictures:
    """Pictures of the encoded shapes from cameras that pre-training never used.

    Attributes:
        seen: True for each view slot of the encoded shapes whose camera pre-training used.
        pretrained: unit vectors of the other pictures by the trained network.
        random_init: the same by the untrained one.
    """

    seen: Bool[np.ndarray, " V"]
    pretrained: Float32[np.ndarray, "n U D"]
    random_init: Float32[np.ndarray, "n U D"]


@dataclass(frozen=True, slots=True)
class ViewGap:
    """Top-1 accuracy of retrieval, mean over shapes and views, 0..1.

    Attributes:
        seen: picture -> shape, from cameras of pre-training.
        unseen: the same from others.
        seen_back: shape -> picture, from cameras of pre-training.
        unseen_back: the same from others.
    """

    seen: float
    unseen: float
    seen_back: float
    unseen_back: float


@dataclass(frozen=True, slots=True)
class UnseenViews:
    """Retrieval with views that were seen and that were not.

    Attributes:
        num_seen: cameras of pre-training that pictures were taken from.
        num_unseen: other cameras.
        num_shapes: that were told apart, in each group; chance is one over it.
        pretrained: by group of shapes.
        random_init: the same of the untrained network.
    """

    num_seen: int
    num_unseen: int
    num_shapes: int
    pretrained: Mapping[ShapeGroup, ViewGap]
    random_init: Mapping[ShapeGroup, ViewGap]


def compare_views(
    pretrained: EncodedShapes, random_init: EncodedShapes, others: OtherPictures
) -> UnseenViews:
    """Measure retrieval with both kinds of cameras.

    Raises:
        ProbeError: fewer than two shapes are held out.
    """
    rows = _as_many_trained(pretrained)
    return UnseenViews(
        num_seen=int(others.seen.sum()),
        num_unseen=others.pretrained.shape[1],
        num_shapes=len(rows),
        pretrained=_of_groups(pretrained, others.seen, others.pretrained, rows),
        random_init=_of_groups(random_init, others.seen, others.random_init, rows),
    )


def _as_many_trained(shapes: EncodedShapes) -> Int64[np.ndarray, " h"]:
    """Choose as many shapes of pre-training as are held out, spread over the manifest."""
    trained = np.flatnonzero(~shapes.held_out)
    count = min(int(shapes.held_out.sum()), len(trained))
    return trained[np.linspace(0, len(trained) - 1, count).round().astype(np.int64)]


def _of_groups(
    shapes: EncodedShapes,
    seen: Bool[np.ndarray, " V"],
    other_pictures: Float32[np.ndarray, "n U D"],
    trained: Int64[np.ndarray, " h"],
) -> dict[ShapeGroup, ViewGap]:
    is_trained = np.zeros_like(shapes.held_out)
    is_trained[trained] = True
    rows_of: dict[ShapeGroup, Bool[np.ndarray, " n"]] = {
        "held_out": shapes.held_out,
        "trained": is_trained,
    }
    gaps: dict[ShapeGroup, ViewGap] = {}
    for group, asked in rows_of.items():
        # Retrieval is among the shapes that are marked.
        of_seen, of_others = (
            replace(shapes, held_out=asked, picture_embeddings=pictures)
            for pictures in (shapes.picture_embeddings[:, seen], other_pictures)
        )
        gaps[group] = ViewGap(
            seen=retrieval_picture_to_shape(of_seen).accuracy,
            unseen=retrieval_picture_to_shape(of_others).accuracy,
            seen_back=retrieval_shape_to_picture(of_seen).accuracy,
            unseen_back=retrieval_shape_to_picture(of_others).accuracy,
        )
    return gaps
