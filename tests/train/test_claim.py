"""A folder of checkpoints has one run, and of that run one process that writes."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from picpoint.train.checkpoint import Retention, newest_checkpoint, save_checkpoint
from picpoint.train.claim import ClaimError, check_owner, claim_checkpoints
from picpoint.train.pretrain import pretrain
from tests.s3_server import BUCKET, s3_server

SETTINGS = {"optim.lr": 1e-3, "seed": 0}


def markers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*.json"))


def take(folder: Path | str, owner: str = "a", **changes: object):
    return claim_checkpoints(str(folder), owner, SETTINGS | changes)


@pytest.mark.parametrize("changes", [{}, {"seed": 1}])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_in_the_checkpoints_of_another_is_refused_and_removes_nothing(
    train, tmp_path, changes, steps
):
    """Also before the other has saved any (its first checkpoint is that of step 3)."""
    place = {"checkpoints": str(tmp_path / "shared")}
    train("first", **place, steps=steps)
    before = markers(tmp_path / "shared")
    with pytest.raises(ClaimError, match=r"holds those of another run, out=.*/first,") as raised:
        train("second", resume="auto", **place, **changes)
    assert "\n" not in str(raised.value)
    assert markers(tmp_path / "shared") == before
    whole = train("whole")
    assert train("first", resume="auto", **place)[-1].loss == whole[-1].loss


def test_a_process_whose_run_was_begun_again_saves_no_more(train, tiny_config, tmp_path):
    lost = pretrain(tiny_config, tmp_path / "run", torch.device("cpu"))
    for _ in range(4):
        next(lost)
    train("run", resume="auto")
    finished = markers(tmp_path / "run" / "checkpoints")
    with pytest.raises(ClaimError, match="has begun this run again since") as raised:
        list(lost)
    assert "\n" not in str(raised.value)
    assert markers(tmp_path / "run" / "checkpoints") == finished


def test_a_run_that_was_moved_with_its_checkpoints_goes_on(train, tmp_path):
    train("run", steps=4)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert train("moved", resume="auto")[0].step == 4


def test_checkpoints_from_before_there_were_claims_are_gone_on_from(train, tmp_path):
    train("run", steps=4)
    for path in (tmp_path / "run" / "checkpoints").glob("run-*"):
        path.unlink()
    assert train("run", resume="auto")[0].step == 4


def test_other_settings_of_the_same_run_are_refused_and_named(tmp_path):
    take(tmp_path)
    with pytest.raises(ClaimError, match=r"optim\.lr was 0.001, is 0.1") as raised:
        take(tmp_path, **{"optim.lr": 0.1})
    assert "\n" not in str(raised.value)


def test_looking_whose_checkpoints_these_are_takes_and_writes_nothing(tmp_path):
    check_owner(str(tmp_path / "none"), "a")
    assert not (tmp_path / "none").exists()
    held = take(tmp_path / "some")
    check_owner(str(tmp_path / "some"), "a")
    held.check()
    with pytest.raises(ClaimError, match="another run, out=a"):
        check_owner(str(tmp_path / "some"), "b")
    assert len(list((tmp_path / "some").iterdir())) == 1


def test_a_claim_that_was_removed_and_taken_anew_is_not_the_first_one_s(tmp_path):
    """The number and so the name are the same."""
    first = take(tmp_path)
    (tmp_path / first.name).unlink()
    with pytest.raises(ClaimError, match="was removed while its run went on"):
        first.check()
    second = take(tmp_path, owner="b")
    assert second.name == first.name
    second.check()
    with pytest.raises(ClaimError, match="has begun"):
        first.check()


def test_what_another_holds_is_neither_added_to_nor_thinned_out(tmp_path):
    first = take(tmp_path)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"samples_seen": step}, SETTINGS, Retention(3), first)
    take(tmp_path)
    with pytest.raises(ClaimError):
        save_checkpoint(tmp_path, 4, {"samples_seen": 4}, SETTINGS, Retention(1), first)
    assert [int(name.split("-")[1]) for name in markers(tmp_path)] == [1, 2, 3]


def test_a_run_taken_over_while_its_checkpoint_is_written_removes_nothing(tmp_path, monkeypatch):
    import picpoint.train.checkpoint as module

    first = take(tmp_path)
    save_checkpoint(tmp_path, 1, {"samples_seen": 1}, SETTINGS, Retention(1), first)
    real = module._put

    def slow(*arguments):
        real(*arguments)
        if arguments[1].endswith(".json"):
            take(tmp_path)

    monkeypatch.setattr(module, "_put", slow)
    with pytest.raises(ClaimError):
        save_checkpoint(tmp_path, 2, {"samples_seen": 2}, SETTINGS, Retention(1), first)
    assert len(markers(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}"])
def test_a_damaged_claim_is_refused_in_one_line(tmp_path, content):
    held = take(tmp_path)
    (tmp_path / held.name).unlink()
    (tmp_path / held.name).write_bytes(content)
    with pytest.raises(ClaimError, match="damaged") as raised:
        take(tmp_path)
    assert "\n" not in str(raised.value)


def race(folder: str, owners: list[str]) -> list[str]:
    """Have all take a folder at once; give those that hold it in the end."""
    together = threading.Barrier(len(owners))

    def begin(owner: str):
        together.wait()
        try:
            return owner, take(folder, owner)
        except ClaimError:
            return owner, None

    def holds(claim) -> bool:
        try:
            claim.check()
        except ClaimError:
            return False
        return True

    with ThreadPoolExecutor(len(owners)) as pool:
        claims = list(pool.map(begin, owners))
    return [owner for owner, claim in claims if claim is not None and holds(claim)]


@pytest.mark.parametrize("owners", [["a", "b", "c", "d"], ["a"] * 4])
def test_of_several_at_once_one_holds_the_folder(tmp_path, owners):
    for attempt in range(20):
        assert len(race(str(tmp_path / str(attempt)), owners)) == 1


def test_of_several_at_once_one_holds_the_bucket_and_its_run_goes_on(tmp_path, monkeypatch):
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for attempt in range(3):
            folder = f"s3://{BUCKET}/{attempt}"
            (winner,) = race(folder, ["a", "b", "c", "d"])
            again = take(folder, winner)
            save_checkpoint(folder, 1, {"samples_seen": 1}, SETTINGS, Retention(1), again)
            with pytest.raises(ClaimError, match=f"out={winner}"):
                take(folder, "e")
            assert newest_checkpoint(folder)[0].state["samples_seen"] == 1


def test_a_claim_says_whose_it_is(tmp_path):
    held = take(tmp_path, owner="/runs/7")
    told = json.loads((tmp_path / held.name).read_text())
    assert (told["out"], told["settings"]) == ("/runs/7", SETTINGS)
