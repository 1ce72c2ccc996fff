import json
from pathlib import Path

import pytest

from picpoint.train.checkpoint import CheckpointError
from picpoint.train.log import LOG_FILE, open_log


def line(samples_seen: int) -> str:
    return json.dumps({"samples_seen": samples_seen, "loss": 1.5}) + "\n"


def reopen(folder: Path, stored: str, samples_seen: int) -> str:
    (folder / LOG_FILE).write_text(stored)
    with open_log(folder, 0, samples_seen) as log:
        log.write("new\n")
    return (folder / LOG_FILE).read_text()


def test_lines_that_a_restart_takes_back_are_dropped(tmp_path: Path) -> None:
    assert reopen(tmp_path, line(4) + line(8) + line(12), 8) == line(4) + line(8) + "new\n"


@pytest.mark.parametrize("torn", [line(12)[:-5], "\0\0\0", "{", '"half'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    assert reopen(tmp_path, line(4) + line(8) + torn, 99) == line(4) + line(8) + "new\n"


def test_a_last_line_that_lacks_only_its_end_is_kept_and_ended(tmp_path: Path) -> None:
    assert reopen(tmp_path, line(4) + line(8).rstrip(), 99) == line(4) + line(8) + "new\n"


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="line 2"):
        reopen(tmp_path, line(4) + "{\n" + line(8), 99)


def test_a_kill_while_the_log_is_reopened_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOG_FILE).write_text(line(4) + line(8))

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt), open_log(tmp_path, 0, 4):
        pass
    assert (tmp_path / LOG_FILE).read_text() == line(4) + line(8)


def test_other_ranks_write_no_file(tmp_path: Path) -> None:
    with open_log(tmp_path, 1, 0) as log:
        log.write("new\n")
    assert list(tmp_path.iterdir()) == []
