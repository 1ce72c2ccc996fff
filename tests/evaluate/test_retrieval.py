import numpy as np
import pytest

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.retrieval import retrieval_picture_to_shape, retrieval_shape_to_picture
from picpoint.linear_probe import ProbeError


def encoded(shapes, pictures, held_out=None) -> EncodedShapes:
    shapes = np.asarray(shapes, dtype=np.float32)
    pictures = np.asarray(pictures, dtype=np.float32)
    n = len(shapes)
    return EncodedShapes(
        keys=tuple(f"shape{i}" for i in range(n)),
        class_names=("only",),
        labels=np.full(n, -1, dtype=np.int64),
        features=np.zeros((n, 1), dtype=np.float32),
        shape_embeddings=shapes / np.linalg.norm(shapes, axis=-1, keepdims=True),
        picture_embeddings=pictures / np.linalg.norm(pictures, axis=-1, keepdims=True),
        held_out=np.ones(n, dtype=bool) if held_out is None else np.array(held_out),
    )


def test_both_directions_equal_a_case_by_hand():
    # Three shapes on the axes; one view slot. The picture of shape 1 looks like shape 0, more than
    # shape 0's own picture does, so it misses its shape and spoils shape 0's search as well.
    shapes = encoded(np.eye(3), [[[3, 1, 0]], [[4, 1, 0]], [[0, 0, 1]]])
    to_shape, to_picture = retrieval_picture_to_shape(shapes), retrieval_shape_to_picture(shapes)
    np.testing.assert_array_equal(to_shape.credit, [[1, 0, 1]])
    # Shape 1 prefers picture 0 (1 / sqrt 10) to its own (1 / sqrt 17).
    np.testing.assert_array_equal(to_picture.credit, [[0, 0, 1]])
    assert to_shape.accuracy == pytest.approx(2 / 3)


def test_every_view_slot_is_a_trial_of_its_own():
    pictures = np.stack([np.eye(4), np.roll(np.eye(4), 1, axis=0)], axis=1)
    shapes = encoded(np.eye(4), pictures)
    for trials in (retrieval_picture_to_shape(shapes), retrieval_shape_to_picture(shapes)):
        np.testing.assert_array_equal(trials.credit, [[1, 1, 1, 1], [0, 0, 0, 0]])
        np.testing.assert_array_equal(trials.per_shape, [0.5, 0.5, 0.5, 0.5])


def test_a_loop_over_queries_finds_the_same():
    rng = np.random.default_rng(0)
    held_out = rng.random(12) < 0.6
    shapes = encoded(rng.normal(size=(12, 5)), rng.normal(size=(12, 3, 5)), held_out)
    rows = np.flatnonzero(held_out)
    to_shape, to_picture = np.zeros((3, len(rows))), np.zeros((3, len(rows)))
    for view in range(3):
        for column, row in enumerate(rows):
            clouds = shapes.shape_embeddings[rows]
            pictures = shapes.picture_embeddings[rows, view]
            found = np.argmax([cloud @ shapes.picture_embeddings[row, view] for cloud in clouds])
            to_shape[view, column] = found == column
            found = np.argmax([shapes.shape_embeddings[row] @ picture for picture in pictures])
            to_picture[view, column] = found == column
    np.testing.assert_array_equal(retrieval_picture_to_shape(shapes).credit, to_shape)
    np.testing.assert_array_equal(retrieval_shape_to_picture(shapes).credit, to_picture)
    assert retrieval_picture_to_shape(shapes).keys == tuple(f"shape{row}" for row in rows)


def test_shapes_of_pre_training_are_no_candidates():
    # Shape 2 equals the query's picture better than its own shape, but was pre-trained on.
    shapes = encoded(
        [[1, 0], [0, 1], [1, 0.5]], [[[1, 0.5]], [[0, 1]], [[1, 1]]], [True, True, False]
    )
    assert retrieval_picture_to_shape(shapes).accuracy == 1.0


def test_a_collapsed_encoder_scores_chance():
    shapes = encoded(np.ones((5, 3)), np.ones((5, 2, 3)))
    assert retrieval_picture_to_shape(shapes).accuracy == pytest.approx(1 / 5)
    assert retrieval_shape_to_picture(shapes).accuracy == pytest.approx(1 / 5)


def test_one_held_out_shape_is_refused():
    shapes = encoded(np.eye(2), np.ones((2, 1, 2)), [True, False])
    with pytest.raises(ProbeError, match="1 held-out shapes: retrieval needs 2"):
        retrieval_picture_to_shape(shapes)
