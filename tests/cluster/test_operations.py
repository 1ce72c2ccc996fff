"""docs/operations.md tells of commands that compose, and of every exit code."""

import re
import shlex
from pathlib import Path

import pytest

from cluster.app import main
from cluster.exit_codes import _CODES, FAULT
from cluster.manifests.__main__ import main as write_manifests

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line
]
SUBMITTED = [line for line in COMMANDS if line.startswith("picpoint submit")]


@pytest.mark.parametrize("command", SUBMITTED)
def test_a_command_of_the_page_would_be_sent(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    assert "relative" not in capsys.readouterr().err


def test_the_page_shows_every_job() -> None:
    from cluster.submit import SUBMITTED as JOBS

    assert {command.split()[2] for command in SUBMITTED} == set(JOBS)


def test_the_page_makes_manifests(tmp_path: Path) -> None:
    (command,) = [line for line in COMMANDS if "cluster.manifests" in line]
    words = shlex.split(command)[3:]
    words[words.index("--out") + 1] = str(tmp_path)
    assert write_manifests(words) == 0
    assert "ghcr.io/acme" in (tmp_path / "kuberay" / "raycluster.yaml").read_text()


def test_the_page_tells_of_every_exit_code() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    assert table == {0, FAULT} | {code for _, code in _CODES}


def test_the_files_that_the_pages_name_are_there() -> None:
    pages = TEXT + (ROOT / "SECURITY.md").read_text()
    for name in set(re.findall(r"(?:cluster|docs|kuberay|kueue|ray-up|compose)/[\w./-]+", pages)):
        if "$" not in name and not name.endswith("/"):
            here = ROOT / name.rstrip(".")
            assert here.exists() or (ROOT / "cluster" / "manifests" / name).exists(), name
