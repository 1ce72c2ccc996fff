"""What does a labelled data set hold, in which splits? Read from a set of clouds and dataset.json.

All splits of a data set lie in one shard set; the source id of a cloud begins with its split, as in
`train/airplane_0001`. Beside manifest.json stands

    dataset.json     DatasetInfo: names of classes and parts, in the order of their numbers
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Int64
from pydantic import TypeAdapter, ValidationError

from shards.cloud_sets import CloudReader
from shards.errors import ManifestError, NotFoundInStoreError
from shards.sealed import DATASET_FILE, seal, unseal
from shards.store import Store, open_store, put_once

NO_CLASS = -1


class DatasetError(ValueError):
    """A data set does not hold what is asked of it; the message says what and what helps."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What numbers mean in a data set.

    Attributes:
        name: of the data set and its variant, such as `scanobjectnn_pb_t50_rs`.
        class_names: of whole clouds, in the order of their numbers; none for scenes.
        part_names: what the labels of points mean; none where points have no labels.
        parts_of_class: first part of each class and the one after its last; for parts of objects.
        url: where the data is to be had.
    """

    name: str
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] = ()
    parts_of_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    url: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled data set, opened.

    Attributes:
        info: what numbers mean.
        reader: of the clouds.
        split_of: name of each cloud's split.
        labels: class of each cloud; NO_CLASS where it has none.
    """

    info: DatasetInfo
    reader: CloudReader
    split_of: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]

    def rows_of(self, splits: Sequence[str]) -> Int64[np.ndarray, " m"]:
        """Give the manifest index of every cloud of some splits.

        Raises:
            DatasetError: there is no such split, or the same cloud would come twice.
        """
        sizes = Counter(self.split_of)
        if len(set(splits)) < len(splits) or not splits:
            raise DatasetError(f"splits {list(splits)}: name at least one, and each once")
        if missing := [split for split in splits if split not in sizes]:
            raise DatasetError(
                f"{self.reader.manifest.url} has no split {missing[0]!r}: there are "
                f"{', '.join(f'{name} ({count})' for name, count in sorted(sizes.items()))}"
            )
        return np.flatnonzero(np.isin(np.array(self.split_of), list(splits)))


def write_info(store: Store, info: DatasetInfo) -> None:
    """Write dataset.json; the same again succeeds.

    Raises:
        StoreError: the store refused, or holds another one.
    """
    put_once(store, DATASET_FILE, seal(asdict(info)))


def open_dataset(reader: CloudReader) -> Dataset:
    """Read what is known of the clouds of a set.

    Raises:
        DatasetError: dataset.json is missing or damaged, or does not fit the clouds.
        ShardError: the set cannot be read.
    """
    info = _read_info(open_store(reader.manifest.url), reader.manifest.url)
    source_ids, labels = reader.manifest.read_texts("source_id", "label")
    number_of = {name: number for number, name in enumerate(info.class_names)}
    unknown = Counter(label for label in labels if label and label not in number_of)
    if unknown:
        name, count = unknown.most_common(1)[0]
        raise DatasetError(
            f"{reader.manifest.url}: {count} clouds are of class {name!r}, which {DATASET_FILE} "
            "does not name; prepare the data set again"
        )
    numbers = [number_of.get(label, NO_CLASS) for label in labels]
    return Dataset(
        info=info,
        reader=reader,
        split_of=tuple(source_id.partition("/")[0] for source_id in source_ids),
        labels=np.array(numbers, dtype=np.int64),
    )


def _read_info(store: Store, url: str) -> DatasetInfo:
    try:
        content = store.get(DATASET_FILE)
    except NotFoundInStoreError as error:
        raise DatasetError(
            f"{url}: no {DATASET_FILE}, so it is no labelled data set; make one with picpoint data "
            "prepare NAME --from PATH"
        ) from error
    try:
        record, _ = unseal(content, f"{url}/{DATASET_FILE}")
        return TypeAdapter(DatasetInfo).validate_python(record, strict=False)
    except ManifestError as error:
        raise DatasetError(str(error)) from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise DatasetError(
            f"{url}/{DATASET_FILE}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}; "
            "prepare the data set again"
        ) from error
