"""A population really trained: driver or node killed on the way, and one that cannot learn."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from raylets import raylets
from test_tune import more

from cluster.app import main
from cluster.report_sources import read_study_shown
from picpoint.report.studies import study_sections
from picpoint.train.checkpoint import newest_checkpoint

# A rate of 1e38 makes weights that are no numbers.
LR = "{key: pretrain.optim.lr, values: [0.001, 0.01, 1.0e+38]}"
TEMPERATURE = "{key: pretrain.loss.temperature, low: 0.05, high: 0.3, log: true}"
DEADLINE_S = 300
DRIVE = "import sys; from cluster.app import main; sys.exit(main(sys.argv[1:]))"


def command(shard_set: Path, out: Path) -> list[str]:
    return [
        *("tune", "study=learning_rate_population", f"shards={shard_set}", f"out={out}"),
        more("epochs=4", "probe.every=0", "log_every=1", "checkpoint_every=1"),
        'study.figure.file="{trial}/pretrain/metrics.jsonl"',
        *("study.figure.key=loss", "study.figure.mode=min", "study.population.quantile=0.5"),
        f"study.parameters=[{LR}, {TEMPERATURE}]",
        *("study.population.size=4", "study.population.generations=2", "trial.max_concurrent=2"),
    ]


def results(out: Path) -> set[Path]:
    return set(out.glob("trials/*/result.json"))


def untimed(out: Path) -> list[dict[str, Any]]:
    """What a study found, without how long it took and where."""
    trials = json.loads((out / "study.json").read_text().replace(str(out), ""))["trials"]
    for trial in trials:
        del trial["result"]["seconds"]
    return trials


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_population_whose_driver_was_killed_is_that_of_one_undisturbed(
    shard_set: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(shard_set, whole)) == 0
    rows = untimed(whole)
    states = [trial["result"]["state"] for trial in rows if trial["generation"] == 1]
    assert len(states) == 4
    assert {"done", "failed"} == set(states)
    # Who failed does not go on; a place is taken by one that did not.
    alive = {row["trial"] for row in rows if row["result"]["state"] == "done"}
    second = [row for row in rows if row["generation"] == 2]
    assert len(second) == 4
    assert {row["parent"] for row in second} <= alive
    assert len({row["parent"] for row in second}) == 2  # the best two of four, twice each
    check_a_line(whole, next(row for row in second if row["trial"] in alive))

    driver = started(command(shard_set, killed))
    wait_for_a_step(driver, killed, [row["trial"] for row in second])
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(2)  # its trials end with it
    kept = {path: path.read_bytes() for path in results(killed)}
    assert 4 <= len(kept) < 8
    logs = {path: (path.parent / "log.txt").read_bytes() for path in kept}
    assert main(command(shard_set, killed)) == 0
    assert untimed(killed) == rows
    assert {path: path.read_bytes() for path in kept} == kept
    assert {path: (path.parent / "log.txt").read_bytes() for path in kept} == logs
    assert len(results(killed)) == 8
    assert main(command(shard_set, killed)) == 0  # and trains nothing more
    assert untimed(killed) == rows
    assert len(results(killed)) == 8
    (section,) = study_sections([read_study_shown(killed)])
    assert "in 2 generations" in section.lead


@pytest.mark.slow
def test_a_population_that_is_stopped_has_nobody_who_failed(
    shard_set: Path, tmp_path: Path
) -> None:
    """Tune gives what it has, and says of Ctrl-C in its log alone."""
    driver = started([*command(shard_set, tmp_path), more("epochs=2000", "probe.every=0")])
    wait_for_a_step(driver, tmp_path, ["*"])
    driver.send_signal(signal.SIGINT)
    assert driver.wait(DEADLINE_S) == 130
    states = {json.loads(path.read_text())["state"] for path in results(tmp_path)}
    assert states <= {"failed"}  # the member that cannot learn, if it was one of the first
    lost = [path for path in results(tmp_path) if "nan" not in path.read_text()]
    assert lost == []
    assert not (tmp_path / "study.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_member_whose_node_is_lost_goes_on_elsewhere_as_if_it_had_not_been(
    shard_set: Path, tmp_path: Path
) -> None:
    """Two nodes of a core each, so that the second has one of the last two members when it ends."""
    small = [more("epochs=96", "probe.every=0", "log_every=1", "checkpoint_every=1")]
    small += ["study.population.size=2", f"study.parameters=[{TEMPERATURE}]"]
    out, alone = tmp_path / "study", tmp_path / "alone"
    with raylets(1, 1) as cluster:
        where = [f"trial.address={cluster.address}"]
        driver = started([*command(shard_set, out), *small, *where], cluster.access)
        wait_for_a_step(driver, out, ["*"], count=4)
        cluster.kill(1)
        assert driver.wait(DEADLINE_S) == 0
    rows = json.loads((out / "study.json").read_text())["trials"]
    assert [row["result"]["state"] for row in rows] == ["done"] * 4
    second = {row["trial"]: row for row in rows if row["generation"] == 2}
    logs = {name: (out / "trials" / name / "log.txt").read_text() for name in second}
    begun = {name: log.count("$ picpoint pretrain") for name, log in logs.items()}
    assert sorted(begun.values()) == [1, 2]
    # The command that was begun twice, told once to another folder.
    lost = max(begun, key=begun.__getitem__)
    line = logs[lost].splitlines()[0].removeprefix("$ picpoint ")
    assert main([*shlex.split(line), f"out={alone}"]) == 0
    told = json.loads((alone / "metrics.jsonl").read_text().splitlines()[-1])
    assert second[lost]["result"]["figure"] == told["loss"]


def started(command: list[str], access: Mapping[str, str] = {}) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVE, *command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | dict(access),
    )


def wait_for_a_step(
    driver: "subprocess.Popen[bytes]", out: Path, trials: list[str], count: int = 1
) -> None:
    """Wait until so many of some trials have made a step."""
    deadline = time.monotonic() + DEADLINE_S
    while (
        sum(len(list(out.glob(f"trials/{name}/pretrain/metrics.jsonl"))) for name in trials) < count
    ):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_a_line(out: Path, member: dict[str, Any]) -> None:
    """Make sure that a member went on from its parent on the schedule of the whole."""
    mine, parent = (
        [
            json.loads(line)
            for line in (out / "trials" / name / "pretrain/metrics.jsonl").read_text().splitlines()
        ]
        for name in (member["trial"], member["parent"])
    )
    assert parent[-1]["step"] + 1 == mine[0]["step"]
    assert mine[-1]["step"] == mine[-1]["total_steps"] == 2 * parent[-1]["step"]
    rate = member["settings"]["pretrain.optim.lr"]
    # The cosine is at its half where the second of two generations begins.
    assert mine[0]["lr"] == pytest.approx(rate / 2)
    checkpoint, _ = newest_checkpoint(out / "trials" / member["trial"] / "pretrain/checkpoints")
    assert checkpoint is not None
    assert checkpoint.settings["optim.lr"] == rate
