from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from picpoint.data.kept_split import kept_split
from picpoint.data.split import HoldoutConfig, Split, split_shapes
from shards.errors import NotFoundInStoreError
from shards.manifest import Manifest, load_manifest
from shards.parts import Parts
from shards.store import LocalStore

HOLDOUT = HoldoutConfig(num_folds=3, validation_fold=1)


@pytest.fixture
def manifest(shard_set: Path) -> Manifest:
    return load_manifest(shard_set)


@pytest.fixture
def blind(manifest: Manifest, tmp_path: Path) -> Manifest:
    """The same set, none of whose labels can be read."""
    return replace(manifest, parts=Parts(LocalStore(tmp_path / "nowhere"), manifest.shards))


@pytest.fixture
def cache_dir(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def assert_same(split: Split, other: Split) -> None:
    np.testing.assert_array_equal(split.test, other.test)
    np.testing.assert_array_equal(split.validation, other.validation)


def test_a_split_that_was_made_before_reads_no_labels(
    manifest: Manifest, blind: Manifest, cache_dir: str
) -> None:
    assert_same(kept_split(manifest, HOLDOUT, cache_dir), split_shapes(manifest, HOLDOUT))
    again = kept_split(blind, HOLDOUT, cache_dir)
    assert_same(again, split_shapes(manifest, HOLDOUT))
    assert again.test.any()
    assert again.validation.any()
    assert again.train.any()


@pytest.mark.parametrize(
    "change",
    [{"num_folds": 4}, {"fold": 2}, {"seed": 1}, {"unit": "series"}, {"validation_fold": None}],
)
def test_another_split_of_the_set_is_another(
    manifest: Manifest, blind: Manifest, cache_dir: str, change: dict[str, object]
) -> None:
    kept_split(manifest, HOLDOUT, cache_dir)
    other = replace(HOLDOUT, **change)
    with pytest.raises(NotFoundInStoreError):
        kept_split(blind, other, cache_dir)
    assert_same(kept_split(manifest, other, cache_dir), split_shapes(manifest, other))


@pytest.mark.parametrize("field", ["digest", "part_sha256"])
def test_a_split_of_another_set_is_not_taken(
    manifest: Manifest, blind: Manifest, cache_dir: str, field: str
) -> None:
    kept_split(manifest, HOLDOUT, cache_dir)
    if field == "digest":
        other = replace(blind, digest="0" * 64)
    else:
        shards = (replace(blind.shards[0], part_sha256="0" * 64), *blind.shards[1:])
        other = replace(blind, shards=shards)
    with pytest.raises(NotFoundInStoreError):
        kept_split(other, HOLDOUT, cache_dir)


@pytest.mark.parametrize("damage", ["flipped", "cut off", "empty", "longer"])
def test_a_damaged_one_is_made_anew(
    manifest: Manifest, blind: Manifest, cache_dir: str, damage: str
) -> None:
    kept_split(manifest, HOLDOUT, cache_dir)
    (path,) = Path(cache_dir).iterdir()
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 0x80])
    path.write_bytes(
        {"flipped": flipped, "cut off": content[:-1], "empty": b"", "longer": content + b"\0"}[
            damage
        ]
    )
    with pytest.raises(NotFoundInStoreError):
        kept_split(blind, HOLDOUT, cache_dir)
    assert_same(kept_split(manifest, HOLDOUT, cache_dir), split_shapes(manifest, HOLDOUT))
    assert path.read_bytes() == content


def test_a_disk_that_keeps_nothing_is_told_and_done_without(
    manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    found = kept_split(manifest, HOLDOUT, str(tmp_path / "file"))
    assert_same(found, split_shapes(manifest, HOLDOUT))
    assert "the split is not kept" in caplog.text


def test_nothing_is_kept_without_a_folder_or_a_holdout(
    manifest: Manifest, cache_dir: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_same(kept_split(manifest, HOLDOUT, ""), split_shapes(manifest, HOLDOUT))
    assert kept_split(manifest, HoldoutConfig(num_folds=0), cache_dir).train.all()
    assert list(tmp_path.iterdir()) == []
