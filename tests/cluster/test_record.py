"""A folder's record: what is told where another job's stands in the way."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.record import RunExistsError, keep_or_start, recorded_settings


@dataclass(frozen=True)
class Job:
    rate: float = 0.1
    cache: str | None = None


def refusal(folder: Path, job: Job, inputs: str) -> str:
    with pytest.raises(RunExistsError) as refused:
        keep_or_start(str(folder), "train", job, inputs)
    return str(refused.value)


def test_settings_and_inputs_are_both_told_where_both_are_others(tmp_path: Path) -> None:
    keep_or_start(str(tmp_path), "train", Job(), "a")
    assert "settings (rate was 0.1, is 0.2); set" in refusal(tmp_path, Job(0.2), "a")
    assert "made from other inputs than now" in refusal(tmp_path, Job(), "b")
    both = refusal(tmp_path, Job(0.2), "b")
    assert "(rate was 0.1, is 0.2) and from other inputs than now" in both


def test_a_record_without_a_setting_that_is_null_is_not_said_to_be_of_other_inputs(
    tmp_path: Path,
) -> None:
    """As a version wrote it that did not have the setting."""
    (tmp_path / "train.yaml").write_text("# inputs a\nrate: 0.1\n")
    told = refusal(tmp_path, Job(), "a")
    assert "by a version that wrote the same settings otherwise" in told
    assert "inputs" not in told


@pytest.mark.parametrize("content", ["", "rate: [0.1", "- rate"])
def test_a_record_that_somebody_spoilt_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.yaml").write_text(content)
    told = refusal(tmp_path, Job(), "a")
    assert "train.yaml holds no settings" in told
    assert "\n" not in told
    with pytest.raises(RunExistsError, match="holds no settings"):
        recorded_settings(str(tmp_path), "train")
    assert recorded_settings(str(tmp_path), "other") == {}
