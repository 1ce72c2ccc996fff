"""Do clouds and pictures of the same unseen shape find each other?

Both ways, top-1, among the held-out shapes only. Chance is one over their number.
"""

import numpy as np
from jaxtyping import Float64

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.trials import Trials
from picpoint.linear_probe import ProbeError

# Similarities of unit vectors closer than this are equal: float32 tells them apart by chance only.
_TIE = 1e-6


def retrieval_picture_to_shape(shapes: EncodedShapes) -> Trials:
    """Ask of every picture of a held-out shape which held-out shape it shows.

    A picture is right where its own shape's embedding is the most similar of all held-out shapes'.
    A trial is a view slot: its queries are the pictures from that camera, one per held-out shape.
    Equal similarities share the credit, so that a collapsed encoder scores chance and not luck.
    Needs no labels: unlabelled held-out shapes take part.
    """
    similarity = _held_out_similarity(shapes)
    return _retrieval_trials(shapes, similarity.swapaxes(1, 2))


def retrieval_shape_to_picture(shapes: EncodedShapes) -> Trials:
    """Ask of every held-out shape which picture shows it.

    A trial is a view slot: the candidates are the pictures of all held-out shapes from that camera,
    and the shape is right where its own picture is the most similar of them. Candidates of one
    camera only, so that there is one right answer and the angle of view cannot give it away. Ties
    and labels as in `retrieval_picture_to_shape`.
    """
    return _retrieval_trials(shapes, _held_out_similarity(shapes))


def _held_out_similarity(shapes: EncodedShapes) -> Float64[np.ndarray, "V h h"]:
    """Cosines of held-out shapes (rows) with held-out pictures (columns), by view slot."""
    clouds = shapes.shape_embeddings[shapes.held_out].astype(np.float64)
    pictures = shapes.picture_embeddings[shapes.held_out].astype(np.float64)
    return np.einsum("sd,pvd->vsp", clouds, pictures)


def _retrieval_trials(shapes: EncodedShapes, similarity: Float64[np.ndarray, "V h h"]) -> Trials:
    """Score queries (rows) against candidates (columns); the diagonal holds the right ones."""
    num_held_out = similarity.shape[1]
    if num_held_out < 2:
        raise ProbeError(f"{num_held_out} held-out shapes: retrieval needs 2; hold out more shapes")
    nearest = similarity >= similarity.max(axis=2, keepdims=True) - _TIE
    own = np.diagonal(nearest, axis1=1, axis2=2)
    credit = own / nearest.sum(axis=2)
    return Trials(shapes.keys_of(np.flatnonzero(shapes.held_out)), credit)
