import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from picpoint.batch import PairBatch
from picpoint.data.augment import UNMOVED, AugmentConfig
from picpoint.data.pair import make_pair
from picpoint.data.pairs import (
    DataConfig,
    evaluation_batches,
    training_batches,
)
from picpoint.data.views import NotStoredError, choose_views, stored_views
from picpoint.geometry.cameras import world_to_pixel
from picpoint.ops.farthest import farthest_order
from shards.codec import encode_picture
from shards.errors import CorruptSampleError
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader
from shards.schema import SchemaError, sample_key

SELECTION = np.arange(18)
JITTERED = AugmentConfig(jitter=0.01)


def config(shards: Path, **changes: object) -> DataConfig:
    return dataclasses.replace(
        DataConfig(str(shards), num_points=64, correspondences=16), **changes
    )


def batches(
    data: DataConfig, rank_slots: slice = slice(0, 8), samples_seen: int = 0, seed: int = 3
) -> list[PairBatch]:
    plan = ReadPlan("digest", num_samples=18, global_batch=8, seed=seed, remainder="drop_last")
    reader = ShardReader(data.shards, data.on_corrupt)
    stream = training_batches(reader, SELECTION, plan, rank_slots, data, 64, samples_seen)
    return list(islice(stream, 4))


def assert_equal(first: PairBatch, second: PairBatch) -> None:
    for field in dataclasses.fields(PairBatch):
        mine, other = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other


def test_the_same_seed_gives_the_same_batches(shard_set: Path) -> None:
    for first, second in zip(batches(config(shard_set)), batches(config(shard_set)), strict=True):
        assert_equal(first, second)


def test_another_seed_or_epoch_gives_others(shard_set: Path) -> None:
    first = batches(config(shard_set))
    assert not torch.equal(first[0].points, batches(config(shard_set), seed=4)[0].points)
    by_key = dict(zip(first[0].keys, first[0].points, strict=True))
    again = [
        (points, by_key[key])
        for batch in first[2:]  # two batches make an epoch here
        for key, points in zip(batch.keys, batch.points, strict=True)
        if key in by_key
    ]
    assert again
    assert all(not torch.equal(new, old) for new, old in again)


def test_a_resumed_stream_is_the_rest_of_the_undisturbed_one(shard_set: Path) -> None:
    undisturbed = batches(config(shard_set))
    for left, resumed in zip(
        undisturbed[2:], batches(config(shard_set), samples_seen=16), strict=False
    ):
        assert_equal(left, resumed)


def test_ranks_together_read_what_one_rank_reads(shard_set: Path) -> None:
    alone = batches(config(shard_set))[0]
    halves = [batches(config(shard_set), slots)[0] for slots in (slice(0, 4), slice(4, 8))]
    for field in dataclasses.fields(PairBatch):
        whole = getattr(alone, field.name)
        parts = [getattr(half, field.name) for half in halves]
        if isinstance(whole, torch.Tensor):
            assert torch.equal(torch.cat(parts), whole)
        elif isinstance(whole, tuple):
            assert parts[0] + parts[1] == whole
        else:
            assert parts == [whole, whole]


@pytest.mark.parametrize("point_subset", ["prefix", "random"])
def test_a_chosen_point_lies_at_its_pixel_and_is_visible(
    shard_set: Path, point_subset: str
) -> None:
    """The moved points, seen by the moved cameras, hit dots that were drawn for them."""
    batch = batches(config(shard_set, point_subset=point_subset, views_per_step=3))[0]
    for row in range(len(batch.keys)):
        u_px, v_px, _ = world_to_pixel(
            batch.points[row][None], batch.view_matrices[row], batch.projection_matrices[row], 64
        )
        where = torch.stack([u_px, v_px], dim=-1)
        chosen = where.gather(1, batch.point_index[row][..., None].expand(-1, -1, 2))
        mask = batch.correspondence_mask[row]
        assert mask.sum() > 10
        # float32 through a motion and its inverse
        torch.testing.assert_close(chosen[mask], batch.pixels[row][mask], atol=2e-3, rtol=0)
        for view in range(3):
            hit = batch.pixels[row, view][mask[view]].long()
            dots = batch.pictures[row, view][:, hit[:, 1], hit[:, 0]]
            background = (dots.float().mean(dim=0) > 250).float().mean()
            assert background == 0  # JPEG blurs a dot, and never into white


def test_correspondences_are_drawn_without_replacement_and_padded(shard_set: Path) -> None:
    batch = batches(config(shard_set, correspondences=60))[0]
    drawn = batch.correspondence_mask.sum(dim=-1)
    assert (drawn < 60).all()  # at most half of the 64 points or so are visible
    assert (drawn > 10).all()
    for index, mask in zip(
        batch.point_index.flatten(0, 1), batch.correspondence_mask.flatten(0, 1), strict=True
    ):
        assert len(set(index[mask].tolist())) == mask.sum()
        assert (index[~mask] == 0).all()


@pytest.mark.parametrize(
    "changes", [{}, {"point_subset": "random"}, {"augment": JITTERED}], ids=str
)
def test_clouds_are_in_farthest_point_order(shard_set: Path, changes: dict[str, object]) -> None:
    for points in batches(config(shard_set, **changes))[0].points:
        np.testing.assert_array_equal(farthest_order(points.numpy()), np.arange(64))


def test_a_jittered_point_keeps_the_pixel_of_the_surface_it_came_from(shard_set: Path) -> None:
    batch = batches(config(shard_set, augment=JITTERED))[0]
    u_px, v_px, _ = world_to_pixel(
        batch.points, batch.view_matrices[:, 0], batch.projection_matrices[:, 0], 64
    )
    where = torch.stack([u_px, v_px], dim=-1).gather(
        1, batch.point_index[:, 0][..., None].expand(-1, -1, 2)
    )
    off_px = (where - batch.pixels[:, 0])[batch.correspondence_mask[:, 0]].norm(dim=-1)
    # 0.03 at most, at some 30 px per unit of the world
    assert 0.05 < off_px.mean() < 1.5


@pytest.mark.parametrize("sample_index", [0, 1])
def test_a_corrupt_sample_leaves_a_masked_slot_and_is_named_once(
    shard_set: Path, tmp_path: Path, damage_sample, caplog, sample_index: int
) -> None:
    key = ShardReader(shard_set).manifest.row(sample_index).key
    damaged = damage_sample(shard_set, tmp_path, sample_index)
    seen = batches(config(damaged, on_corrupt="skip_and_count"))
    slots = [(batch, slot) for batch in seen for slot in range(8) if not batch.valid[slot]]
    assert slots
    for batch, slot in slots:
        assert not batch.correspondence_mask[slot].any()
        assert len(batch.keys) == 8
        assert key not in batch.keys
    assert [record.levelname for record in caplog.records if key in record.message] == ["WARNING"]


@pytest.mark.parametrize("sample_index", [0, 1])
def test_a_corrupt_sample_stops_the_stream_by_default(
    shard_set: Path, tmp_path: Path, damage_sample, sample_index: int
) -> None:
    key = ShardReader(shard_set).manifest.row(sample_index).key
    with pytest.raises(CorruptSampleError, match=key):
        batches(config(damage_sample(shard_set, tmp_path, sample_index)))


@pytest.fixture
def miswritten(shard_set: Path, tmp_path: Path, write_samples) -> Path:
    """The set, with pictures of sample 1 that were cut off before they were written."""
    reader = ShardReader(shard_set)
    samples = list(reader.stream(Request(n, tuple(range(20))) for n in range(18)))
    pictures = {view: jpeg[: len(jpeg) // 2] for view, jpeg in samples[1].pictures.items()}
    samples[1] = dataclasses.replace(samples[1], pictures=pictures)
    return write_samples(tmp_path / "set", samples)


def test_a_picture_that_cannot_be_decoded_is_damage_too(miswritten: Path, caplog) -> None:
    """Its checksum is right: only decoding tells."""
    key = ShardReader(miswritten).manifest.row(1).key
    undisturbed = batches(config(miswritten, on_corrupt="skip_and_count"))
    masked = [row for batch in undisturbed for row in range(8) if not batch.valid[row]]
    assert masked
    assert all(key not in batch.keys for batch in undisturbed)
    assert [record.levelname for record in caplog.records if key in record.message] == ["WARNING"]
    with pytest.raises(CorruptSampleError, match=f"sample 1 .key {key}.*cannot be decoded"):
        batches(config(miswritten))
    reader = ShardReader(miswritten)
    with pytest.raises(CorruptSampleError, match=key):
        list(evaluation_batches(reader, SELECTION, config(miswritten), 64, 7, views=[0]))


def test_a_picture_of_another_size_than_its_sample_says_is_refused(shard_set: Path) -> None:
    """Its correspondences would lie elsewhere."""
    sample = ShardReader(shard_set).read(Request(0, (3,)))
    small = encode_picture(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(SchemaError, match="is 32 x 32 px"):
        make_pair(
            dataclasses.replace(sample, pictures={3: small}),
            np.array([3]),
            config(shard_set),
            64,
            np.random.default_rng(0),
            None,
        )


def test_an_evaluation_does_without_no_shape(
    shard_set: Path, tmp_path: Path, damage_sample
) -> None:
    reader = ShardReader(damage_sample(shard_set, tmp_path, 4), "skip_and_count")
    reader.read(Request(4))  # a second encounter is not recorded anew
    with pytest.raises(CorruptSampleError, match=reader.manifest.row(4).key):
        list(evaluation_batches(reader, SELECTION, config(shard_set), 64, 7, views=[0]))


def test_more_points_or_views_than_stored_are_refused(shard_set: Path) -> None:
    with pytest.raises(NotStoredError, match=r"num_points=500.*96"):
        batches(config(shard_set, num_points=500))
    with pytest.raises(NotStoredError, match=r"views=30.*20"):
        batches(config(shard_set, views=30))
    with pytest.raises(ValueError, match=r"views_per_step=21.*20"):
        batches(config(shard_set, views_per_step=21))


def test_only_the_chosen_views_are_used(shard_set: Path) -> None:
    stored = stored_views(ShardReader(shard_set))
    chosen = choose_views(stored, "all", 2)
    allowed = {tuple(np.round(p, 3)) for p in stored.cameras.positions[chosen]}
    used = set()
    for batch in batches(config(shard_set, views=2, augment=UNMOVED)):
        for view_matrix in batch.view_matrices[:, 0].numpy():
            position = -view_matrix[:3, :3].T @ view_matrix[:3, 3]
            used.add(tuple(np.round(position, 3)))
    assert used == allowed


def test_an_evaluation_reads_every_shape_once_unmoved(shard_set: Path) -> None:
    reader = ShardReader(shard_set)
    read = list(evaluation_batches(reader, SELECTION, config(shard_set), 64, 7, views=[0, 5]))
    keys = [key for batch in read for key in batch.keys]
    assert keys == list(reader.manifest.read_texts("key")[0])
    assert sample_key("ball/0") in keys
    first = reader.manifest.row(0).key
    stored = reader.read(Request(0)).points
    assert keys[0] == first
    np.testing.assert_array_equal(read[0].points[0].numpy(), stored[:64].astype(np.float32))
