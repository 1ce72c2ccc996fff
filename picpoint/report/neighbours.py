"""Which pre-training shapes does an encoder hold for the likes of a held-out shape?"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.probe import nearest_train_shapes

NUM_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class NeighbourRows:
    """Rows of held-out shapes, and of their nearest pre-training shapes by either encoder."""

    queries: Int64[np.ndarray, " q"]
    pretrained: Int64[np.ndarray, "q k"]
    random_init: Int64[np.ndarray, "q k"]


def find_neighbours(
    pretrained: EncodedShapes, random_init: EncodedShapes, num_queries: int
) -> NeighbourRows:
    """Find the neighbours that the page shows.

    Args:
        pretrained: what the pre-trained encoder says.
        random_init: what the untrained one says of the same shapes.
        num_queries: held-out shapes to ask for; the first of every class, then the second of every
            class, and so on, so that nobody picks those that look well.
    """
    queries = _deal_by_class(pretrained)[:num_queries]
    return NeighbourRows(
        queries=queries,
        pretrained=nearest_train_shapes(pretrained, queries, NUM_NEIGHBOURS),
        random_init=nearest_train_shapes(random_init, queries, NUM_NEIGHBOURS),
    )


def keys_shown(
    pretrained: EncodedShapes, random_init: EncodedShapes, num_queries: int
) -> tuple[str, ...]:
    """Give the keys of all shapes that `find_neighbours` shows; the page needs their pictures."""
    rows = find_neighbours(pretrained, random_init, num_queries)
    shown = np.unique(np.concatenate([rows.queries, rows.pretrained, rows.random_init], axis=None))
    return pretrained.keys_of(shown)


def _deal_by_class(shapes: EncodedShapes) -> Int64[np.ndarray, " h"]:
    """Order the labelled held-out shapes: the first of every class, then the second, and so on."""
    rank_of: dict[int, int] = {}
    taken: Counter[int] = Counter()
    for row in shapes.probe_test.tolist():
        label = int(shapes.labels[row])
        rank_of[row] = taken[label]
        taken[label] += 1
    order = sorted(rank_of, key=lambda row: (rank_of[row], shapes.labels[row]))
    return np.array(order, dtype=np.int64)
