import json

import numpy as np
import pytest

from picpoint.report.training_log import LogError, load_log

LINE = {
    "step": 1,
    "samples_seen": 64,
    "loss": 8.0,
    "loss_local": 5.0,
    "loss_pooled": 3.0,
    "local_top1": 0.1,
    "pooled_top1": 0.2,
    "lr": 0.001,
    "samples_per_s": 40.0,
}


def test_a_log_gives_its_curves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(LINE | {"samples_seen": n}) + "\n" for n in (64, 128)))
    log = load_log(path, seed=3)
    assert log.seed == 3
    np.testing.assert_array_equal(log.curve("loss_local"), [[64, 5], [128, 5]])


def test_an_empty_log_has_empty_curves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    assert load_log(path, seed=0).curve("loss").shape == (0, 2)


def test_a_missing_log_is_refused(tmp_path):
    with pytest.raises(LogError, match="picpoint pretrain"):
        load_log(tmp_path / "metrics.jsonl", seed=0)


@pytest.mark.parametrize("broken", ['{"samples_seen": 1', "3", '{"loss": 1}', '{"lr": "x"}'])
def test_a_broken_line_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + broken + "\n")
    with pytest.raises(LogError, match=r"metrics.jsonl, line 2: broken"):
        load_log(path, seed=0)
