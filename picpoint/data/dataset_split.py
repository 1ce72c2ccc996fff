"""Which clouds of a data set are learnt from, and which is it measured on?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from picpoint.data.clouds import CloudDataConfig
from picpoint.data.dataset import NO_CLASS, Dataset, DatasetError


@dataclass(frozen=True, slots=True)
class Split:
    """Two parts of a data set that share no cloud.

    Attributes:
        train: manifest index of each cloud that is learnt from.
        evaluated: of each that is measured on.
    """

    train: Int64[np.ndarray, " n"]
    evaluated: Int64[np.ndarray, " m"]


def split_clouds(config: CloudDataConfig, dataset: Dataset) -> Split:
    """Split a data set as a config says.

    Raises:
        DatasetError: no such split; and of a data set whose clouds have classes, a cloud without
            one, or a class that is measured on and not learnt.
    """
    train = dataset.rows_of(config.train)
    match config.evaluate_on:
        case "test":
            evaluated = dataset.rows_of(config.test)
        case "validation":
            evaluated = _take(dataset, train, config.validation_share, config.split_seed)
            train = np.setdiff1d(train, evaluated)
    if config.label_share < 1:
        train = _take(dataset, train, config.label_share, config.split_seed)
    if dataset.info.class_names:
        _check_labels(dataset, train, evaluated)
    return Split(train, evaluated)


def check_sizes(config: CloudDataConfig, dataset: Dataset, split: Split) -> None:
    """Make sure, by the manifest, that every cloud has the points that will be asked of it.

    Raises:
        DatasetError: one has fewer, and no crop is taken, which repeats points.
    """
    if config.subset == "crop":
        return
    manifest, rows = dataset.reader.manifest, np.concatenate([split.train, split.evaluated])
    sizes = np.concatenate(
        [
            manifest.parts[number].samples.num_points
            for number, entry in enumerate(manifest.shards)
            if entry.num_samples
        ]
    )[rows]
    if count := int((sizes < config.num_points).sum()):
        least = manifest.row(int(rows[sizes.argmin()]))
        raise DatasetError(
            f"data.num_points={config.num_points}: {count} of {len(rows)} clouds of {manifest.url} "
            f"hold fewer; the smallest, {least.source_id!r}, holds {least.num_points}: ask for so "
            "few, or leave them out"
        )


def _take(
    dataset: Dataset, rows: Int64[np.ndarray, " n"], share: float, seed: int
) -> Int64[np.ndarray, " m"]:
    """Draw a share of every class; of scenes whole rooms, of which neighbours would tell."""
    if dataset.info.class_names:
        return take_share(rows, dataset.labels, share, seed)
    (source_ids,) = dataset.reader.manifest.read_texts("source_id")
    # Area_1/office_3 is a room, and Area_1/office_3/0007 a block of it.
    rooms = np.array(["/".join(source_ids[row].split("/")[:2]) for row in rows.tolist()])
    names = np.unique(rooms)
    count = max(1, round(share * len(names)))
    taken = np.random.default_rng([seed, 0]).permutation(len(names))[:count]
    return rows[np.isin(rooms, names[taken])]


def take_share(
    rows: Int64[np.ndarray, " n"],
    labels: Int64[np.ndarray, " all"],
    share: float,
    seed: int,
) -> Int64[np.ndarray, " m"]:
    """Draw a share of every class, at least one cloud of each; the order of rows is kept.

    A larger share with the same seed holds all of a smaller one.

    Args:
        rows: to draw from.
        labels: class of every cloud of the set.
        share: above 0, at most 1.
        seed: of the draw.
    """
    taken = []
    for number in np.unique(labels[rows]).tolist():
        of_class = rows[labels[rows] == number]
        count = max(1, round(share * len(of_class)))
        order = np.random.default_rng([seed, number + 1]).permutation(len(of_class))
        taken.append(of_class[order[:count]])
    return np.sort(np.concatenate(taken))


def _check_labels(
    dataset: Dataset, train: Int64[np.ndarray, " n"], test: Int64[np.ndarray, " m"]
) -> None:
    """Make sure that every class that is tested was there to be learnt."""
    url = dataset.reader.manifest.url
    for rows in (train, test):
        if (bare := np.flatnonzero(dataset.labels[rows] == NO_CLASS)).size:
            name = dataset.reader.manifest.row(int(rows[bare[0]])).source_id
            raise DatasetError(
                f"{url}: {bare.size} clouds have no class (the first: {name!r}); classification "
                "needs one of each"
            )
    if unseen := set(dataset.labels[test].tolist()) - set(dataset.labels[train].tolist()):
        raise DatasetError(
            f"{url}: class {dataset.info.class_names[min(unseen)]!r} is tested and not trained on; "
            "add clouds of it to data.train, or leave it out of the data set"
        )
