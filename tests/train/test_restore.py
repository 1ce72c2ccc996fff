"""What is refused says which settings differ, and what can really be done."""

import pytest

from picpoint.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    newest_checkpoint,
)
from picpoint.train.restore import check_settings, named_checkpoint
from picpoint.train.settings import FOUND_OUT, declared_settings, plan_run
from picpoint.train.state import OptimConfig
from shards.manifest import load_manifest

MADE_WITH = {"optim.lr": 1e-3, "widths": [8, 8], "data.digest": "1a"}


def refusal(settings: dict[str, object], may_differ: tuple[str, ...] = ()) -> str:
    checkpoint = Checkpoint("ck/step-1.pt", {}, MADE_WITH)
    with pytest.raises(CheckpointError) as raised:
        check_settings(checkpoint, settings, "do this", may_differ)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_same_settings_are_taken():
    check_settings(Checkpoint("x", {}, MADE_WITH), {**MADE_WITH, "seed": 1}, "", ["seed"])


def test_each_setting_that_differs_is_named_with_both_values_and_no_other():
    told = refusal({"optim.lr": 0.1, "seed": 3, "data.digest": "1a"})
    assert told == (
        "ck/step-1.pt was made with other settings (optim.lr was 0.001, is 0.1; "
        "seed was not set, is 3; widths was [8, 8], is not set): do this"
    )


def test_of_many_that_differ_a_dozen_are_named():
    told = refusal({f"a{number:02}": number for number in range(20)})
    assert "a11 was not set, is 11; and 11 more" in told
    assert "a12" not in told


def test_hashes_are_told_in_words():
    told = refusal({**MADE_WITH, "data.digest": "2b"})
    assert "the shapes to train on are others (data.shards, data.holdout)" in told
    assert "1a" not in told


def test_a_named_checkpoint_of_other_settings_is_refused_with_what_can_be_done(train, tmp_path):
    """Another `out`, which was the advice, would change nothing: the checkpoint stays the same."""
    train("first", steps=4)
    with pytest.raises(CheckpointError, match=r"optim\.lr was 0.01, is 0.5") as raised:
        train("second", resume=str(tmp_path / "first"), optim=OptimConfig(lr=0.5), epochs=5)
    told = str(raised.value)
    assert "epochs was 4, is 5" in told
    assert "resume=auto" in told
    assert "take them over" in told
    assert "`out`" not in told
    assert not list((tmp_path / "second").glob("checkpoints/step-*"))


def test_a_run_s_own_checkpoint_of_other_settings_asks_for_a_place_of_its_own(train, tmp_path):
    """Checkpoints that nobody has claimed, as of an earlier version."""
    train("run", steps=4)
    for path in (tmp_path / "run" / "checkpoints").glob("run-*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"seed was 0, is 1\): set them back.*another `out`"):
        train("run", resume="auto", seed=1)


def test_what_is_declared_suffices_to_refuse_before_a_rank_is_asked(train, tiny_config, tmp_path):
    train("first", steps=4)
    plan, _ = plan_run(tiny_config, load_manifest(tiny_config.data.shards))
    declared = declared_settings(tiny_config, plan)
    newest, _ = newest_checkpoint(tmp_path / "first" / "checkpoints")
    named = named_checkpoint(str(tmp_path / "first"), declared, FOUND_OUT)
    assert newest is not None
    assert named.path.endswith(newest.path.rpartition("/")[2])
    with pytest.raises(CheckpointError, match="seed was 0, is 7"):
        named_checkpoint(str(tmp_path / "first"), declared | {"seed": 7}, FOUND_OUT)
    assert set(newest.settings) == set(declared) | set(FOUND_OUT)
