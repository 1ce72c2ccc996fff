"""How does a batch whose activations do not fit get the gradient that it would get whole?

The embeddings of all its pieces are computed without keeping activations, the loss is taken of all
of them at once, and each piece is then computed again to carry its part of the gradient on to the
weights. Nothing is approximated: a contrastive loss needs all embeddings, but only those.
BatchNorm's statistics are the same in both passes, because a piece holds whole ghost batches.

Source: Gao et al., Scaling deep contrastive learning batch size, arXiv:2101.06983.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from picpoint.batch import Embeddings, ImageFeatures, LossTerms, PairBatch, take_shapes

# What the loss may ask the gradient of.
_LEAVES = ("point_pooled", "picture_pooled", "point_local", "picture_local")

Forward = Callable[[PairBatch, ImageFeatures], Embeddings]


def split_pairs(
    batch: PairBatch, image: ImageFeatures, piece: int
) -> list[tuple[PairBatch, ImageFeatures]]:
    """Cut a batch into pieces of so many shapes; the last may be smaller."""
    starts = range(0, len(batch.keys), piece)
    return [
        (take_shapes(batch, rows), ImageFeatures(image.local[rows], image.pooled[rows]))
        for rows in (slice(start, start + piece) for start in starts)
    ]


def backward_in_pieces(
    model: nn.Module,
    forward: Forward,
    pieces: Sequence[tuple[PairBatch, ImageFeatures]],
    loss: Callable[[Embeddings], tuple[LossTerms, Tensor]],
) -> tuple[Embeddings, LossTerms]:
    """Add the gradient of a whole batch to the parameters, a piece at a time.

    Args:
        model: whose gradients are reduced over ranks, once, where it is DistributedDataParallel.
        forward: computes the embeddings of a piece; twice, and both times the same.
        pieces: of this rank's share, in order; each a multiple of the ghost batch.
        loss: gives the terms of all embeddings, and what `backward` is called on.

    Returns:
        The embeddings of the whole share, without graph, and the loss terms.
    """
    with torch.no_grad():
        parts = [forward(*piece) for piece in pieces]
    whole = _joined(parts)
    leaves = {name: getattr(whole, name).requires_grad_() for name in _LEAVES}
    if whole.temperature is not None:
        leaves["temperature"] = whole.temperature.requires_grad_()
    terms, total = loss(dataclasses.replace(whole, **leaves))
    total.backward()
    start = 0
    for number, (piece, part) in enumerate(zip(pieces, parts, strict=True)):
        rows = slice(start, start := start + len(part.valid))
        is_last = number == len(pieces) - 1
        with _without_reduction(model, is_last):
            again = forward(*piece)
            outputs = [getattr(again, name) for name in _LEAVES]
            gradients = [_gradient(leaves[name])[rows] for name in _LEAVES]
            if again.temperature is not None:
                # One number of the whole batch: its gradient goes through one piece.
                share = _gradient(leaves["temperature"])
                outputs.append(again.temperature)
                gradients.append(share if is_last else 0 * share)
            torch.autograd.backward(outputs, gradients)
    return _detached(whole), terms


@contextlib.contextmanager
def _without_reduction(model: nn.Module, is_last: bool) -> Generator[None]:
    """Keep gradients on this rank until the last piece."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None  # the loss depends on every one
    return leaf.grad


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    names = [field.name for field in dataclasses.fields(Embeddings) if field.name != "temperature"]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    temperature = parts[0].temperature
    return Embeddings(**joined, temperature=None if temperature is None else temperature.clone())


def _detached(embeddings: Embeddings) -> Embeddings:
    return dataclasses.replace(
        embeddings, **{name: getattr(embeddings, name).detach() for name in _LEAVES}
    )
