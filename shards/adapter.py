"""How does a stock WebDataset pipeline read our verified stream? As an iterable of its dicts.

    reader = ShardReader("s3://bucket/set")
    plan = ReadPlan(reader.manifest.digest, reader.manifest.num_samples, 256, 0, "drop_last")
    requests = plan_requests(plan, epoch=0, views=(3,))
    dataset = as_webdataset(reader, requests).decode(...).to_tuple("points.npy", "view03.jpg")

Which samples come, and in which order, the plan says; webdataset's own splitting and shuffling of
shards has no part in it. Members are bytes, as from its own reader, each with its checksum checked.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shards.errors import CorruptSampleError
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader


def plan_requests(
    plan: ReadPlan, epoch: int, views: Sequence[int], worker: int = 0, num_workers: int = 1
) -> Iterator[Request]:
    """Give the samples of an epoch in the plan's order, or those of one of several workers.

    Args:
        plan: who reads which sample when.
        epoch: counted from 0.
        views: whose pictures are wanted of each sample.
        worker: from 0; workers take turns.
        num_workers: how many read the epoch together.
    """
    seen = epoch * plan.samples_per_epoch
    for _ in range(plan.batches_per_epoch):
        batch = plan.batch_at(seen)
        for index in batch.sample_index[batch.valid][worker::num_workers].tolist():
            yield Request(index, tuple(views))
        seen += batch.num_samples


def as_webdataset(reader: ShardReader, requests: Iterable[Request]) -> Any:  # noqa: ANN401
    """Build a `webdataset.DataPipeline` over samples of a shard set.

    Args:
        reader: of the set; its `on_corrupt` decides about damaged samples, which are left out and
            counted in `reader.corrupt` if they are to be skipped.
        requests: which samples, in which order; iterated anew by every pass over the pipeline, so
            give a list, or build a new pipeline for each epoch.

    Returns:
        A `webdataset.DataPipeline` with webdataset's fluent interface; its samples are dicts of
        `__key__`, `__url__` and the members' bytes by name.

    Raises:
        ImportError: webdataset (and torch, which it needs) is not installed.
    """
    from webdataset.compat import FluidInterface  # pyright: ignore[reportMissingTypeStubs]
    from webdataset.pipeline import DataPipeline  # pyright: ignore[reportMissingTypeStubs]

    class VerifiedStream(DataPipeline, FluidInterface):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Our samples, with webdataset's methods."""

    return VerifiedStream(lambda: _dicts(reader, requests))


def _dicts(reader: ShardReader, requests: Iterable[Request]) -> Iterator[dict[str, Any]]:
    for request in requests:
        shard, row = reader.manifest.shard_of(request.sample_index), request.sample_index
        try:
            members = reader.read_members(request)
        except CorruptSampleError:
            if reader.read(request) is None:  # which counts it, or raises
                continue
            raise
        key = reader.manifest.row(row).key
        yield {"__key__": key, "__url__": f"{reader.manifest.url}/{shard.name}", **members}
