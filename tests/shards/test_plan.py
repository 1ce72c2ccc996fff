from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.shuffle import buffered_order, label_entropy, neighbour_spread
from shards.errors import PlanError
from shards.plan import CHUNK_SAMPLES, CHUNKS_PER_BLOCK, ReadPlan, permute

DIGEST = "d" * 64
FROZEN_ORDER = [2, 8, 4, 12, 9, 13, 7, 14, 10, 15]


@st.composite
def topologies(draw):
    """A plan, and how its batches are shared: (plan, ghost batch, number of ranks)."""
    ghost_batch = draw(st.integers(1, 6))
    num_ghosts = draw(st.integers(1, 9))
    global_batch = ghost_batch * num_ghosts
    remainder = draw(st.sampled_from(["drop_last", "pad"]))
    least = global_batch if remainder == "drop_last" else 1
    plan = ReadPlan(
        digest=DIGEST,
        num_samples=draw(st.integers(least, least + 100)),
        global_batch=global_batch,
        seed=draw(st.integers(0, 2**40)),
        remainder=remainder,
        chunk_samples=draw(st.integers(1, 9)),
        chunks_per_block=draw(st.integers(1, 4)),
    )
    return plan, ghost_batch, draw(st.integers(1, num_ghosts))


def _epoch(plan: ReadPlan, epoch: int) -> np.ndarray:
    """The order of an epoch, batch after batch, without padding."""
    start = epoch * plan.samples_per_epoch
    batches = [
        plan.batch_at(start + number * plan.global_batch)
        for number in range(plan.batches_per_epoch)
    ]
    assert all(batch.epoch == epoch for batch in batches)
    return np.concatenate([batch.sample_index[batch.valid] for batch in batches])


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_the_permutation_is_one_to_one_for_every_size(size, seed):
    keys = np.array([seed, 1, 2, 3], np.uint64)
    values = permute(np.arange(size, dtype=np.uint64), size, keys)
    assert np.array_equal(np.sort(values), np.arange(size))


@pytest.mark.parametrize("size", [10_000_000, 2**33 + 1])
def test_huge_sets_need_no_memory_and_stay_in_range(size):
    plan = ReadPlan(DIGEST, size, 4096, 0, "drop_last")
    positions = np.random.default_rng(0).choice(size, 4096).astype(np.int64)
    samples = plan.positions_to_samples(3, positions)
    assert samples.min() >= 0
    assert samples.max() < size
    assert len(np.unique(samples)) == len(np.unique(positions))


@settings(max_examples=40)
@given(topologies())
def test_every_sample_is_read_once_per_epoch_by_all_ranks_together(topology):
    plan, ghost_batch, num_ranks = topology
    read: list[np.ndarray] = []
    for number in range(plan.batches_per_epoch):
        batch = plan.batch_at(number * plan.global_batch)
        for rank in range(num_ranks):
            share = plan.rank_slice(ghost_batch, rank, num_ranks)
            read.append(batch.sample_index[share][batch.valid[share]])
    counts = np.bincount(np.concatenate(read), minlength=plan.num_samples)
    assert counts.max() == 1
    assert counts.sum() == plan.samples_per_epoch
    if plan.remainder == "pad":
        assert counts.min() == 1
    else:
        assert plan.num_samples - counts.sum() < plan.global_batch


@settings(max_examples=40)
@given(topologies())
def test_rank_slices_tile_the_batch_in_whole_ghost_batches(topology):
    plan, ghost_batch, num_ranks = topology
    slots = np.arange(plan.global_batch)
    shares = [slots[plan.rank_slice(ghost_batch, rank, num_ranks)] for rank in range(num_ranks)]
    assert np.array_equal(np.concatenate(shares), slots)
    ghosts = [len(share) // ghost_batch for share in shares]
    assert all(len(share) % ghost_batch == 0 and len(share) > 0 for share in shares)
    assert max(ghosts) - min(ghosts) <= 1


@settings(max_examples=40)
@given(topologies(), st.integers(0, 15))
def test_resuming_anywhere_gives_the_suffix(topology, stop_after):
    plan, _, _ = topology
    undisturbed, seen = [], 0
    for number in range(stop_after + 6):
        if number == stop_after:
            position = seen
        batch = plan.batch_at(seen)
        undisturbed.append((batch.epoch, batch.sample_index.tolist()))
        seen += batch.num_samples
    again, seen = [], position
    resumed = replace(plan)
    for _ in range(6):
        batch = resumed.batch_at(seen)
        again.append((batch.epoch, batch.sample_index.tolist()))
        seen += batch.num_samples
    assert again == undisturbed[stop_after:]


@settings(max_examples=40)
@given(topologies())
def test_only_the_last_batch_of_an_epoch_is_padded_and_padding_is_no_sample(topology):
    plan, _, _ = topology
    for number in range(plan.batches_per_epoch):
        batch = plan.batch_at(number * plan.global_batch)
        assert (batch.sample_index[~batch.valid] == -1).all()
        if number < plan.batches_per_epoch - 1 or plan.remainder == "drop_last":
            assert batch.valid.all()
        assert batch.num_samples > 0


def test_epochs_seeds_and_sets_have_orders_of_their_own():
    plans = [
        ReadPlan(digest, 97, 10, seed, "pad") for digest in (DIGEST, "e" * 64) for seed in (0, 1)
    ]
    orders = {tuple(_epoch(plan, epoch)) for plan in plans for epoch in range(3)}
    assert len(orders) == 12


def test_dropped_samples_differ_from_epoch_to_epoch():
    plan = ReadPlan(DIGEST, 19, 10, 0, "drop_last")
    assert len(set(np.concatenate([_epoch(plan, epoch) for epoch in range(10)]))) == 19


def test_the_batch_size_does_not_change_the_order():
    orders = [_epoch(ReadPlan(DIGEST, 60, batch, 5, "drop_last"), 2) for batch in (1, 6, 20, 60)]
    assert all(np.array_equal(order, orders[0]) for order in orders)


def test_the_order_is_frozen():
    """A checkpoint of an older release must resume into the same order."""
    plan = ReadPlan(DIGEST, 20, 10, seed=0, remainder="drop_last")
    assert plan.batch_at(0).sample_index.tolist() == FROZEN_ORDER


@pytest.mark.slow
@settings(max_examples=120)
@given(topologies(), st.data())
def test_world_sizes_that_change_in_mid_epoch_read_the_order_of_one_rank(topology, data):
    """Ranks come and go at any batch, each with loader workers; nothing of the order moves."""
    plan, ghost_batch, _ = topology
    num_ghosts = plan.global_batch // ghost_batch
    seen = first = data.draw(st.integers(0, 2 * plan.batches_per_epoch)) * plan.global_batch
    epochs, left = divmod(first, plan.batches_per_epoch * plan.global_batch)
    seen = epochs * plan.samples_per_epoch + left
    alone, together = seen, []
    for _ in range(data.draw(st.integers(1, 4))):
        num_ranks = data.draw(st.integers(1, num_ghosts))
        num_workers = data.draw(st.integers(1, 3))
        shares = []
        for rank in range(num_ranks):
            batch = replace(plan).batch_at(seen)  # a process of its own
            own = np.arange(plan.global_batch)[plan.rank_slice(ghost_batch, rank, num_ranks)]
            read = np.empty(len(own), np.int64)
            for worker in range(num_workers):
                read[worker::num_workers] = batch.sample_index[own[worker::num_workers]]
            shares.append(read)
        together.append(np.concatenate(shares))
        seen += int((together[-1] >= 0).sum())
    for batch in together:
        expected = plan.batch_at(alone)
        assert np.array_equal(batch, expected.sample_index)
        alone += expected.num_samples


@pytest.mark.parametrize(
    ("size", "chunks_per_block"), [(8, 64), (31, 64), (100, 64), (8, 1), (16, 2)]
)
def test_every_sample_is_equally_likely_at_every_position(size, chunks_per_block):
    num_epochs = 20 * size
    counts = np.zeros((size, size))
    positions = np.arange(size)
    for epoch in range(num_epochs):
        plan = ReadPlan(DIGEST, size, size, 9, "drop_last", 4, chunks_per_block)
        counts[positions, plan.positions_to_samples(epoch, positions)] += 1
    chi_square = ((counts - num_epochs / size) ** 2).sum() / (num_epochs / size)
    freedom = (size - 1) ** 2
    # Five standard deviations of chi-square, from a fixed seed: a fair shuffle stays inside.
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_in_the_set_are_not_neighbours_in_the_order():
    size, num_epochs = 101, 400
    plan = ReadPlan(DIGEST, size, size, 3, "drop_last")
    positions = np.arange(size)
    steps = np.zeros(size)
    for epoch in range(num_epochs):
        order = plan.positions_to_samples(epoch, positions)
        steps += np.bincount(np.diff(order) % size, minlength=size)
    expected = num_epochs * (size - 1) / (size - 1)
    chi_square = ((steps[1:] - expected) ** 2).sum() / expected
    assert abs(chi_square - (size - 2)) < 5 * np.sqrt(2 * (size - 2))


def test_a_large_set_is_better_mixed_than_by_a_buffer_of_10_000_samples():
    """Stored class by class, the worst case: 55 classes, shards of 1,500 samples."""
    size = 132_000
    plan = ReadPlan(DIGEST, size, 512, 0, "drop_last")
    assert size >= 2 * plan.block_samples
    ours = plan.positions_to_samples(0, np.arange(size))
    buffered = buffered_order(size, per_shard=1500, buffer=10_000, seed=0)
    labels = np.arange(size) * 55 // size
    assert neighbour_spread(ours) > neighbour_spread(buffered)
    for batch in (64, 512, 4096):
        assert label_entropy(ours, labels, batch) > label_entropy(buffered, labels, batch)


def test_a_set_of_less_than_two_blocks_is_mixed_like_a_uniform_permutation():
    size = 2 * CHUNK_SAMPLES * CHUNKS_PER_BLOCK - 1
    order = ReadPlan(DIGEST, size, 512, 0, "drop_last").positions_to_samples(0, np.arange(size))
    # The spread of a uniform permutation has a standard deviation of 1 / sqrt(2 n) or so: 0.002.
    assert neighbour_spread(order) == pytest.approx(1, abs=0.01)
    assert label_entropy(order, np.arange(size) * 55 // size, 512) == pytest.approx(1, abs=2e-3)


def test_a_block_of_a_large_set_is_read_from_few_chunks_of_it():
    plan = ReadPlan(DIGEST, 10_000_000, 4096, 0, "drop_last")
    for block in (0, 77, 150):  # the last, 151, is longer
        positions = block * plan.block_samples + np.arange(plan.block_samples)
        samples = np.sort(plan.positions_to_samples(2, positions))
        assert (np.diff(samples) > 1).sum() <= CHUNKS_PER_BLOCK


@given(st.integers(-5, 70))
@settings(max_examples=80)
def test_a_position_where_no_batch_begins_is_refused(samples_seen):
    plan = ReadPlan(DIGEST, 25, 10, 0, "pad")
    begins = samples_seen >= 0 and samples_seen % 25 in (0, 10, 20)
    if begins:
        assert plan.batch_at(samples_seen).epoch == samples_seen // 25
    else:
        with pytest.raises(PlanError, match="no batch of 10 begins there"):
            plan.batch_at(samples_seen)


def test_numbers_that_do_not_go_together_are_refused():
    plan = ReadPlan(DIGEST, 100, 12, 0, "pad")
    with pytest.raises(PlanError, match="must be a multiple"):
        plan.rank_slice(ghost_batch=5, rank=0, num_ranks=1)
    with pytest.raises(PlanError, match="at least one"):
        plan.rank_slice(ghost_batch=4, rank=0, num_ranks=4)
    with pytest.raises(PlanError, match="rank 3 of 3"):
        plan.rank_slice(ghost_batch=4, rank=3, num_ranks=3)
    with pytest.raises(PlanError, match="smaller batch or remainder=pad"):
        ReadPlan(DIGEST, 11, 12, 0, "drop_last")
    with pytest.raises(PlanError, match="is the shard set empty"):
        ReadPlan(DIGEST, 0, 12, 0, "pad")
    with pytest.raises(PlanError, match="blocks of 0 chunks of 1024"):
        replace(plan, chunks_per_block=0)
    with pytest.raises(PlanError, match="0 to 99"):
        plan.positions_to_samples(0, np.array([100]))
