"""Real reads over real sets: whatever the ranks, batches and stores, one order comes out."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_sets import make_set

import shards.member_reader
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader
from shards.schema import POINTS
from shards.store import RemoteStore

SHARDS = (1, 2, 4, 12)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Readers of the same 12 samples in 1, 2, 4 and 12 shards, from a folder and by requests."""
    found = {}
    for num_shards in SHARDS:
        folder = tmp_path_factory.mktemp("set") / "shards"
        manifest = make_set(folder, num_shards, 12 // num_shards)
        found["folder", num_shards] = ShardReader(manifest, members=(POINTS,))
        with pytest.MonkeyPatch.context() as patched:
            store = RemoteStore(f"file://{folder}")
            patched.setattr(shards.member_reader, "open_store", lambda url, store=store: store)
            found["bucket", num_shards] = ShardReader(manifest, members=(POINTS,))
    return found


@st.composite
def runs(draw):
    """A plan over 12 samples, and how a run over it is interrupted."""
    ghost_batch, num_ghosts = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    plan = ReadPlan(
        digest="d" * 64,
        num_samples=12,
        global_batch=ghost_batch * num_ghosts,
        seed=draw(st.integers(0, 9)),
        remainder=draw(st.sampled_from(["drop_last", "pad"])),
        chunk_samples=draw(st.integers(1, 4)),
        chunks_per_block=draw(st.integers(1, 4)),
    )
    legs = draw(
        st.lists(
            st.tuples(st.integers(1, num_ghosts), st.integers(1, 3), st.integers(1, 9)),
            min_size=1,
            max_size=3,
        )
    )
    return plan, ghost_batch, legs


def _requests(batches, share):
    return (Request(i) for batch in batches for i in batch.sample_index[share].tolist() if i >= 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs(), st.sampled_from(SHARDS), st.sampled_from(["folder", "bucket"]))
def test_legs_of_a_run_with_other_ranks_read_the_order_of_one_rank(readers, run, num_shards, where):
    """Each leg: ranks, batches, and how far each rank's stream reads ahead."""
    plan, ghost_batch, legs = run
    reader, seen, read = readers[where, num_shards], 0, []
    for num_ranks, num_batches, read_ahead in legs:
        batches, position = [], seen
        for _ in range(num_batches):
            batches.append(replace(plan).batch_at(position))
            position += batches[-1].num_samples
        shares = [plan.rank_slice(ghost_batch, rank, num_ranks) for rank in range(num_ranks)]
        streams = [reader.stream(_requests(batches, share), read_ahead) for share in shares]
        for batch in batches:
            for share, stream in zip(shares, streams, strict=True):
                count = int(np.count_nonzero(batch.valid[share]))
                read += [sample.meta.source_id for sample in islice(stream, count)]
        assert [next(stream, None) for stream in streams] == [None] * num_ranks
        seen = position
    expected, position = [], 0
    while position < seen:
        batch = plan.batch_at(position)
        expected += batch.sample_index[batch.valid].tolist()
        position += batch.num_samples
    assert read == [f"set/shape-{index}" for index in expected]
    whole_epochs = seen // plan.samples_per_epoch * plan.samples_per_epoch
    for start in range(0, whole_epochs, plan.samples_per_epoch):
        epoch = read[start : start + plan.samples_per_epoch]
        assert len(set(epoch)) == plan.samples_per_epoch
