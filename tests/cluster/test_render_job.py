"""A render job finds what its workers made, or says that it is somewhere else."""

from pathlib import Path

import pytest

from cluster.jobs.render import _check_all_are_here
from shards.errors import StoreError
from shards.manifest import load_part, part_name
from shards.store import LocalStore


def entries_of(folder: Path):
    store = LocalStore(folder)
    return [load_part(store, tar.name) for tar in sorted(folder.glob("*.tar"))]


def test_a_folder_that_workers_do_not_share_is_refused(shard_set: Path, tmp_path: Path):
    entries = entries_of(shard_set)
    assert len(entries) == 3
    _check_all_are_here(str(shard_set), entries)
    with pytest.raises(StoreError, match=r"shard-000000.tar and 2 other .* machines share"):
        _check_all_are_here(str(tmp_path), entries)


def test_one_shard_that_was_finished_elsewhere_is_noticed(shard_set: Path, tmp_path: Path):
    entries = entries_of(shard_set)
    for entry in (entries[0], entries[2]):
        copy = tmp_path / part_name(entry.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((shard_set / part_name(entry.name)).read_bytes())
    with pytest.raises(StoreError, match=r"shard-000001.tar and 0 other"):
        _check_all_are_here(str(tmp_path), entries)
