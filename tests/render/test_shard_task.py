"""A finished shard is the one an undisturbed worker makes, whatever happened before."""

from dataclasses import replace
from pathlib import Path

import pytest

from picpoint.geometry.rigs import RigConfig
from picpoint.render import shard_task
from picpoint.render.capture import CaptureConfig
from picpoint.render.capture_child import CaptureLimits
from picpoint.render.shard_task import ShardTask, finish_shard, plan_shards
from picpoint.render.sources import list_shapes
from shards.columns import Reject, shard_name
from shards.errors import AlreadyInStoreError, CorruptSampleError
from shards.manifest import part_name, publish_part
from shards.store import LocalStore

SMALL = CaptureConfig(num_points=64, rig=RigConfig(size_px=16))
SOLID = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 {}\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


def write_source(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    folder.mkdir()
    for number in range(count):
        text = "OFF\n" if number in broken else SOLID.format(number + 1)
        (folder / f"shape-{number}.off").write_text(text)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> ShardTask:
    shapes = list_shapes(write_source(tmp_path / "source", 4, broken=(2,)))
    return plan_shards(shapes, 4, str(tmp_path / "set"), SMALL, CaptureLimits())[0]


def files_of(task: ShardTask) -> dict[str, bytes]:
    return {name: LocalStore(Path(task.out)).get(name) for name in _names(task)}


def _names(task: ShardTask) -> list[str]:
    return LocalStore(Path(task.out)).list_names()


@pytest.mark.parametrize(("count", "per_shard"), [(1, 1), (7, 3), (9, 3), (2, 5)])
def test_the_plan_deals_every_shape_to_one_shard_in_order(tmp_path, count, per_shard):
    shapes = list_shapes(write_source(tmp_path / "source", count))
    plan = plan_shards(shapes, per_shard, "out", SMALL, CaptureLimits())
    assert [shape for task in plan for shape in task.shapes] == list(shapes)
    assert [task.name for task in plan] == [shard_name(number) for number in range(len(plan))]
    assert all(len(task.shapes) == per_shard for task in plan[:-1])
    assert 1 <= len(plan[-1].shapes) <= per_shard


def test_a_shard_tells_what_was_rejected_and_why(task):
    finished = finish_shard(task)
    assert not finished.was_finished
    assert finished.entry.num_samples == 3
    assert [reject.source_id for reject in finished.entry.rejects] == ["shape-2"]
    assert _names(task) == [part_name(task.name), task.name]


def test_a_finished_shard_is_kept(task):
    finished, before = finish_shard(task), files_of(task)
    times = {name: (Path(task.out) / name).stat().st_mtime_ns for name in before}
    again = finish_shard(task)
    assert again.was_finished
    assert again.entry == finished.entry
    assert {name: (Path(task.out) / name).stat().st_mtime_ns for name in before} == times


@pytest.mark.parametrize("lost", ["tar", "part", "both"])
def test_what_a_killed_worker_left_is_completed_to_the_same_bytes(task, lost):
    finish_shard(task)
    before = files_of(task)
    names = {"tar": [task.name], "part": [part_name(task.name)]}
    for name in names.get(lost, [task.name, part_name(task.name)]):
        (Path(task.out) / name).unlink()
    finish_shard(task)
    assert files_of(task) == before


def test_a_shard_of_rejects_alone_has_no_tar_and_is_finished(tmp_path):
    shapes = list_shapes(write_source(tmp_path / "source", 2, broken=(0, 1)))
    (task,) = plan_shards(shapes, 4, str(tmp_path / "set"), SMALL, CaptureLimits())
    assert len(finish_shard(task).entry.rejects) == 2
    assert _names(task) == [part_name(task.name)]
    assert finish_shard(task).was_finished


def test_a_damaged_shard_is_told_and_not_built_upon(task):
    finish_shard(task)
    tar = Path(task.out) / task.name
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(content)
    with pytest.raises(CorruptSampleError, match="the shard is damaged: remove it"):
        finish_shard(task)
    tar.unlink()
    finish_shard(task)
    content[700] ^= 1
    assert tar.read_bytes() == bytes(content)


def test_who_loses_a_race_takes_what_the_winner_made(task, tmp_path, monkeypatch):
    """The winner lost another shape to a time limit, so its bytes are others."""
    winner = replace(task, shapes=task.shapes[1:])
    lost = finish_shard(replace(winner, out=str(tmp_path / "winner")))
    monkeypatch.setattr(shard_task, "_PAUSES_S", (0.0,))

    def race(*arguments):
        """The winner publishes while we render."""
        samples = capture_all(*arguments)
        finish_shard_of_winner()
        yield from samples

    def finish_shard_of_winner():
        monkeypatch.setattr(shard_task, "_capture_all", capture_all)
        finish_shard(winner)

    capture_all = shard_task._capture_all
    monkeypatch.setattr(shard_task, "_capture_all", race)
    assert finish_shard(task).entry == lost.entry


@pytest.mark.parametrize("lost_again", [False, True], ids=["all come now", "none come now"])
def test_a_tar_whose_writer_never_told_of_it_is_told_of_as_it_is(task, monkeypatch, lost_again):
    """Its writer lost a shape to chance; whoever comes after does not, or loses all."""
    monkeypatch.setattr(shard_task, "_PAUSES_S", (0.0,))
    finish_shard(replace(task, shapes=task.shapes[1:]))
    tar = files_of(task)[task.name]
    (Path(task.out) / part_name(task.name)).unlink()
    if lost_again:
        monkeypatch.setattr(shard_task, "_capture_all", lambda task, rejects: iter(()))
    entry = finish_shard(task).entry
    assert files_of(task)[task.name] == tar
    assert (entry.num_samples, entry.rejects[0].reason) == (2, "lost")
    assert {reject.source_id for reject in entry.rejects} == {"shape-0", "shape-2"}
    assert finish_shard(task).was_finished


def test_of_two_who_tell_of_a_tar_at_once_the_second_takes_what_the_first_told(task, monkeypatch):
    monkeypatch.setattr(shard_task, "_PAUSES_S", (0.0,))
    finish_shard(replace(task, shapes=task.shapes[1:]))
    (Path(task.out) / part_name(task.name)).unlink()
    told_first = []

    def told(store, shard):
        if not told_first:
            reasons = tuple(replace(reject, reason="timeout") for reject in shard.rejects)
            told_first.append(publish_part(store, replace(shard, rejects=reasons)))
        return publish_part(store, shard)

    monkeypatch.setattr(shard_task, "publish_part", told)
    monkeypatch.setattr(shard_task, "_capture_all", lambda task, rejects: iter(()))
    assert finish_shard(task).entry == told_first[0]


def test_a_tar_of_other_shapes_is_not_taken(task, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_task, "_PAUSES_S", (0.0,))
    others = list_shapes(write_source(tmp_path / "more", 6))
    finish_shard(replace(task, shapes=others[4:]))
    (Path(task.out) / part_name(task.name)).unlink()
    with pytest.raises(AlreadyInStoreError, match="shapes of another set"):
        finish_shard(task)


def test_a_lost_tar_is_made_again_without_what_was_rejected_by_chance(task, monkeypatch):
    """Otherwise it could never again be what its part says."""
    shapes = task.shapes
    capture_all = shard_task._capture_all

    def unlucky(task, rejects):
        rejects.append(Reject("shape-0", "timeout", "not done in time"))
        return capture_all(replace(task, shapes=shapes[1:]), rejects)

    monkeypatch.setattr(shard_task, "_capture_all", unlucky)
    first = finish_shard(task).entry
    monkeypatch.setattr(shard_task, "_capture_all", capture_all)
    tar = files_of(task)[task.name]
    (Path(task.out) / task.name).unlink()
    assert finish_shard(task).entry == first
    assert files_of(task)[task.name] == tar


def test_a_part_is_told_after_its_tar(task, monkeypatch):
    """Otherwise a shard could look finished whose tar never came."""

    def told(store, shard):
        assert store.sha256(shard.name) == shard.sha256
        return publish_part(store, shard)

    monkeypatch.setattr(shard_task, "publish_part", told)
    assert finish_shard(task).entry.num_samples == 3
