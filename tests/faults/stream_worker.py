"""A reading process for the fault tests: it reads from a position on and writes down what it read.

    python stream_worker.py URL SAMPLES_SEEN RANK NUM_RANKS NUM_BATCHES OUT

A line per batch goes to OUT, once the whole batch was read: samples seen before it, its epoch, the
rank, and the sample indices in the rank's slots as their source ids tell them. A reader that is
killed leaves at most half a line.
"""

import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

from shards.plan import ReadPlan
from shards.reader import Request, ShardReader

GLOBAL_BATCH, GHOST_BATCH = 12, 3


def plan_of(reader: ShardReader) -> ReadPlan:
    return ReadPlan(
        digest=reader.manifest.digest,
        num_samples=reader.manifest.num_samples,
        global_batch=GLOBAL_BATCH,
        seed=5,
        remainder="pad",
        chunk_samples=4,
        chunks_per_block=3,
    )


def main() -> None:
    url, out = sys.argv[1], Path(sys.argv[6])
    seen, rank, num_ranks, num_batches = map(int, sys.argv[2:6])
    reader = ShardReader(url)
    plan = plan_of(reader)
    share = plan.rank_slice(GHOST_BATCH, rank, num_ranks)
    batches = []
    position = seen
    for _ in range(num_batches):
        batch = plan.batch_at(position)
        batches.append((position, batch.epoch, batch.sample_index[share].tolist()))
        position += batch.num_samples
    requests = (Request(i, (i % 3,)) for _, _, slots in batches for i in slots if i >= 0)
    with closing(reader.stream(requests, read_ahead=8)) as samples, out.open("a") as file:
        for position, epoch, slots in batches:
            read = islice(samples, sum(i >= 0 for i in slots))
            numbers = [sample.meta.source_id.partition("-")[2] for sample in read]
            print(position, epoch, rank, *numbers, file=file, flush=True)


if __name__ == "__main__":
    main()
