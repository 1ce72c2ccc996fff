"""How well is an order shuffled, next to a uniform permutation? Two measures; both are 1 for one.

To be compared with: shards in random order through a shuffle buffer, as data loaders usually do it.
"""

import numpy as np
from jaxtyping import Int64


def neighbour_spread(order: Int64[np.ndarray, " n"]) -> float:
    """Tell how far apart in the order neighbours in the set come, over what chance gives (n / 3).

    Args:
        order: sample index at each position, each sample once.
    """
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return float(np.abs(np.diff(position)).mean() / (len(order) / 3))


def label_entropy(
    order: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], batch: int, seed: int = 0
) -> float:
    """Tell the mean entropy of the labels of a batch, over that of a uniform permutation's.

    Args:
        order: sample index at each position.
        labels: class of each sample.
        batch: samples in a batch.
        seed: of the permutation to compare with.
    """
    uniform = np.random.default_rng(seed).permutation(len(order))
    return _mean_entropy(labels[order], batch) / _mean_entropy(labels[uniform], batch)


def buffered_order(
    num_samples: int, per_shard: int, buffer: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Give the order of a shuffle buffer over shards that come in random order.

    Each step takes a random sample out of the buffer and puts the next one in.
    """
    generator = np.random.default_rng(seed)
    shards = generator.permutation(-(-num_samples // per_shard))
    stream = (shards[:, None] * per_shard + np.arange(per_shard)).ravel()
    stream = stream[stream < num_samples].tolist()
    held, rest = stream[:buffer], stream[buffer:]
    places = generator.integers(0, len(held), len(rest)).tolist()
    order = np.empty(num_samples, np.int64)
    for number, (place, sample) in enumerate(zip(places, rest, strict=True)):
        order[number] = held[place]
        held[place] = sample
    order[len(rest) :] = generator.permutation(held)
    return order


def _mean_entropy(labels: Int64[np.ndarray, " n"], batch: int) -> float:
    """In bits, over the whole batches of an order."""
    num_batches = len(labels) // batch
    rows = labels[: num_batches * batch].reshape(num_batches, batch)
    counts = np.stack([np.bincount(row, minlength=labels.max() + 1) for row in rows]) / batch
    return float(-(counts * np.log2(np.where(counts > 0, counts, 1))).sum(axis=1).mean())
