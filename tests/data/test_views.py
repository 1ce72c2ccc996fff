"""Which stored views are used: a rig's own, far apart, and an error that names what there is."""

from pathlib import Path

import numpy as np
import pytest

from picpoint.data.views import NotStoredError, StoredViews, choose_views, stored_views
from picpoint.geometry.rigs import RigConfig, build_cameras, build_rigs
from shards.reader import ShardReader
from shards.schema import RigViews

NAMES = ("octahedron", "ring_5_20deg", "fibonacci_7")


@pytest.fixture(scope="module")
def stored() -> StoredViews:
    rigs = build_rigs(RigConfig(NAMES))
    counts = tuple(RigViews(name, len(rig.view_matrices)) for name, rig in rigs.items())
    return StoredViews(build_cameras(RigConfig(NAMES)), counts)


def renamed(stored: StoredViews, *names: str) -> StoredViews:
    rigs = tuple(
        RigViews(name, rig.num_views) for name, rig in zip(names, stored.rigs, strict=True)
    )
    return StoredViews(stored.cameras, rigs)


def test_cameras_come_from_the_first_sample_that_can_be_read(
    shard_set: Path, tmp_path: Path, damage_sample
) -> None:
    reader = ShardReader(damage_sample(shard_set, tmp_path, 0), "skip_and_count")
    whole, rest = stored_views(ShardReader(shard_set)), stored_views(reader)
    np.testing.assert_array_equal(rest.cameras.view_matrices, whole.cameras.view_matrices)
    assert rest.rigs == whole.rigs == (RigViews("dodecahedron", 20),)


@pytest.mark.parametrize(
    ("rig", "views"),
    [
        ("octahedron", range(6)),
        ("ring_5_20deg", range(6, 11)),
        ("fibonacci_7", range(11, 18)),
        ("all", range(18)),
    ],
)
def test_a_rig_s_views_are_found_among_all(stored: StoredViews, rig: str, views: range) -> None:
    chosen = choose_views(stored, rig, 0)
    assert sorted(chosen.tolist()) == list(views)
    few = choose_views(stored, rig, 3)
    np.testing.assert_array_equal(few, chosen[:3])


@pytest.mark.parametrize("name", NAMES)
def test_of_a_rig_the_same_views_are_chosen_as_if_it_had_been_rendered_alone(
    stored: StoredViews, name: str
) -> None:
    alone = build_cameras(RigConfig((name,)))
    own = choose_views(StoredViews(alone, (RigViews(name, len(alone.view_matrices)),)), name, 4)
    chosen = choose_views(stored, name, 4)
    np.testing.assert_array_equal(stored.cameras.positions[chosen], alone.positions[own])


def test_a_view_subset_is_spread_over_the_sphere(shard_set: Path) -> None:
    stored = stored_views(ShardReader(shard_set))
    chosen = stored.cameras.positions[choose_views(stored, "dodecahedron", 4)]
    directions = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    closest = (directions @ directions.T)[~np.eye(4, dtype=bool)].max()
    neighbours = np.cos(0.73)  # adjacent dodecahedron vertices are 41.8 degrees apart
    assert closest < neighbours - 0.2


def test_a_rig_that_was_not_rendered_or_has_fewer_views_is_refused(stored: StoredViews) -> None:
    with pytest.raises(NotStoredError, match=r"data\.rig=icosahedron.*octahedron, ring_5_20deg"):
        choose_views(stored, "icosahedron", 0)
    with pytest.raises(NotStoredError, match=r"views=6: only 5.*data\.rig=ring_5_20deg"):
        choose_views(stored, "ring_5_20deg", 6)


def test_a_file_is_found_without_its_digest_unless_two_have_its_name(stored: StoredViews) -> None:
    one = renamed(stored, "octahedron", "file:a.json@0123456789ab", "file:b.json@0123456789ab")
    assert sorted(choose_views(one, "file:b.json", 0).tolist()) == list(range(11, 18))
    two = renamed(stored, "octahedron", "file:a.json@0123456789ab", "file:a.json@ba9876543210")
    assert sorted(choose_views(two, "file:a.json@ba9876543210", 0)) == list(range(11, 18))
    with pytest.raises(NotStoredError, match="must be one of"):
        choose_views(two, "file:a.json", 0)
