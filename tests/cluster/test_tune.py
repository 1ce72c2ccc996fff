"""Trials really run: each in processes of its own, failures kept, finished ones not run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import TINY_RUN

from cluster import trial as trial_module
from cluster.app import main
from cluster.parameter import Parameter
from cluster.study import Figure, Step, StudyConfig, points, trial_id
from cluster.study_on_tune import keeper_of_stopped, search
from cluster.trial import TrialLostError, TrialResult, keep_result, load_result, run_trial
from cluster.trials_on_ray import TrialResources, Trials, on_ray, run_on_tune
from tests.processes import is_running

TINY = [
    *TINY_RUN[1:],  # where it runs is the study's business
    "global_batch=4",
    "ghost_batch=2",
    "epochs=1",
    "trackers=[]",
    "data.holdout.num_folds=3",
    "data.holdout.validation_fold=1",
    "probe.every=4",
    "probe.per_class=2",
]
FIGURE = Figure("{trial}/run/probes.jsonl", "accuracy", "max", "probe")


def study(shard_set: Path, **changes: object) -> StudyConfig:
    settings: dict[str, object] = {
        "name": "tiny",
        "question": "Q?",
        "parameters": (Parameter("pretrain.seed", (0,)),),
        "steps": (Step("pretrain", (f"data.shards={shard_set}", "out={trial}/run", *TINY)),),
        "figure": FIGURE,
    }
    return StudyConfig(**(settings | changes))  # pyright: ignore


def test_a_trial_keeps_to_its_cores(
    shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trial_module, "_ENTRY", "import os; print(os.environ['OMP_NUM_THREADS'], 'cores')"
    )
    asked = study(shard_set)
    (settings,) = points(asked)
    run_trial(asked, settings, tmp_path / "t", ["runtime=local"], print, cores=3)
    assert "3 cores" in (tmp_path / "t" / "log.txt").read_text()


def test_a_trial_tells_its_figures_and_is_not_run_twice(shard_set: Path, tmp_path: Path) -> None:
    asked = study(shard_set)
    (settings,) = points(asked)
    told: list[float] = []
    first = run_trial(asked, settings, tmp_path / "t", ["runtime=local"], told.append)
    assert first.state == "done"
    assert first.figure == told[-1]
    lines = (tmp_path / "t" / "run" / "probes.jsonl").read_text().splitlines()
    assert told == [json.loads(line)["accuracy"] for line in lines]
    log = (tmp_path / "t" / "log.txt").read_text()
    again: list[float] = []
    assert run_trial(asked, settings, tmp_path / "t", ["runtime=local"], again.append) == first
    assert again == told
    assert (tmp_path / "t" / "log.txt").read_text() == log


def test_a_failed_trial_keeps_its_reason(shard_set: Path, tmp_path: Path) -> None:
    asked = study(shard_set, parameters=(Parameter("pretrain.data.num_points", (97,)),))
    (settings,) = points(asked)
    result = run_trial(asked, settings, tmp_path / "t", ["runtime=local"], print)
    assert (result.state, result.figure) == ("failed", None)
    assert "data.num_points=97" in result.reason
    assert load_result(tmp_path / "t") == result


def test_a_trial_whose_command_was_killed_is_lost_and_has_no_result(
    shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_ENTRY", "import os; os.kill(os.getpid(), 9)")
    asked = study(shard_set)
    (settings,) = points(asked)
    with pytest.raises(TrialLostError, match="signal 9"):
        run_trial(asked, settings, tmp_path / "t", ["runtime=local"], print)
    assert load_result(tmp_path / "t") is None


def test_a_figure_that_is_no_number_is_a_failure_with_its_reason(
    shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_ENTRY", "")
    asked = study(shard_set)
    (settings,) = points(asked)
    (tmp_path / "t" / "run").mkdir(parents=True)
    (tmp_path / "t" / "run" / "probes.jsonl").write_text('{"accuracy": 0.5}\n{"accuracy": NaN}\n')
    result = run_trial(asked, settings, tmp_path / "t", [], lambda figure: None)
    assert (result.state, result.figure) == ("failed", None)
    assert "probe is nan" in result.reason
    assert load_result(tmp_path / "t") == result


def test_a_figure_that_is_not_there_is_a_failure_with_its_reason(
    shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_ENTRY", "")
    asked = study(shard_set, figure=Figure("{trial}/run/probes.jsonl", "acuracy", "max", "probe"))
    (settings,) = points(asked)
    (tmp_path / "t" / "run").mkdir(parents=True)
    (tmp_path / "t" / "run" / "probes.jsonl").write_text('{"accuracy": 0.5, "step": 3}\n')
    result = run_trial(asked, settings, tmp_path / "t", [], lambda figure: None)
    assert (result.state, result.figure) == ("failed", None)
    assert "study.figure.key=acuracy" in result.reason
    assert "the nearest of its own: accuracy" in result.reason
    assert load_result(tmp_path / "t") == result


def test_a_trial_that_was_ended_early_is_kept_so(shard_set: Path, tmp_path: Path) -> None:
    asked = study(shard_set)
    (settings,) = points(asked)
    folder = tmp_path / "t"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "probes.jsonl").write_text('{"accuracy": 0.25}\n{"accuracy": 0.5}\n')
    ended = keep_result(folder, TrialResult("stopped", 0.5, 2.0))
    told: list[float] = []
    assert run_trial(asked, settings, folder, ["runtime=local"], told.append) == ended
    assert told == [0.25, 0.5]
    assert not (folder / "log.txt").exists()


def test_a_scheduler_that_ends_a_trial_leaves_its_result(shard_set: Path, tmp_path: Path) -> None:
    asked = study(shard_set)
    (settings,) = points(asked)
    keeper = keeper_of_stopped(asked, lambda settings: tmp_path / f"{settings['pretrain.seed']}")
    last = {"figure": 0.5, "time_total_s": 3.0}
    trial = SimpleNamespace(config={"point": settings}, last_result=last)
    keeper.on_trial_complete(0, [trial], trial)
    assert load_result(tmp_path / "0") == TrialResult("stopped", 0.5, 3.0)
    # One that came to its end says so itself, and one that told nothing has nothing to keep.
    done = keep_result(tmp_path / "1", TrialResult("done", 0.75, 4.0))
    trial.config = {"point": {"pretrain.seed": 1}}
    keeper.on_trial_complete(0, [trial], trial)
    assert load_result(tmp_path / "1") == done
    trial.config, trial.last_result = {"point": {"pretrain.seed": 2}}, {}
    keeper.on_trial_complete(0, [trial], trial)
    assert load_result(tmp_path / "2") is None


RUN_TRIAL = """
import sys
from pathlib import Path
from tests.cluster.test_tune import points, run_trial, study
asked = study(Path(sys.argv[1]), more=("pretrain.epochs=2000",))
(settings,) = points(asked)
run_trial(asked, settings, Path(sys.argv[2]), ["runtime=local"], print)
"""


def test_the_commands_of_a_trial_end_with_it(shard_set: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    trial = subprocess.Popen(
        [sys.executable, "-c", RUN_TRIAL, shard_set, tmp_path / "t"],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    deadline = time.monotonic() + 120
    log = tmp_path / "t" / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert trial.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = [
        int(pid) for pid in Path(f"/proc/{trial.pid}/task/{trial.pid}/children").read_text().split()
    ]
    assert children
    os.kill(trial.pid, signal.SIGKILL)
    trial.wait()
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a command outlives its trial"
        time.sleep(0.1)


def more(*overrides: str) -> str:
    """An override of a study: overrides of all its trials."""
    return f"study.more={json.dumps([f'pretrain.{each}' for each in (*TINY, *overrides)])}"


def command(shard_set: Path, out: Path) -> list[str]:
    """Two variants of two seeds, of which one cannot be."""
    return [
        *("tune", "study=ablations", f"shards={shard_set}", f"out={out}", more()),
        "study.variants=[{name: full, overrides: []}, "
        '{name: impossible, overrides: ["pretrain.data.num_points=97"]}]',
        "study.parameters=[{key: pretrain.seed, values: [0, 1]}]",
    ]


@pytest.mark.slow
def test_a_study_on_ray_tune_keeps_failures_and_goes_on(
    shard_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As users name folders: Tune's processes, and so its trials, have another working folder.
    monkeypatch.chdir(tmp_path.parent)
    relative = Path(tmp_path.name)
    assert main(command(shard_set, relative)) == 0
    told = capsys.readouterr().out
    assert "| full |" in told
    record = json.loads((tmp_path / "study.json").read_text())
    states = {
        (trial["settings"]["variant"], trial["settings"]["pretrain.seed"]): trial["result"]["state"]
        for trial in record["trials"]
    }
    assert states == {
        ("full", 0): "done",
        ("full", 1): "done",
        ("impossible", 0): "failed",
        ("impossible", 1): "failed",
    }
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/log.txt")}
    assert len(times) == 4
    # One trial is lost; the same command runs that one alone.
    lost = next(t["trial"] for t in record["trials"] if t["result"]["state"] == "done")
    (tmp_path / "trials" / lost / "result.json").unlink()
    assert main(command(shard_set, relative)) == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/log.txt")}
    assert [path.parent.name for path in times if after[path] != times[path]] == [lost]
    assert json.loads((tmp_path / "study.json").read_text())["table"] == record["table"]


@pytest.mark.slow
def test_trials_that_asha_ended_are_not_trained_further(shard_set: Path, tmp_path: Path) -> None:
    """Those that begin worse than three in four before them."""
    arguments = [
        *("tune", "study=ablations", f"shards={shard_set}", f"out={tmp_path}"),
        more("epochs=2"),
        "study.variants=[]",
        "study.parameters=[{key: pretrain.seed, values: [0, 1, 2, 3, 4]}]",
        "study.scheduler=asha",
        "trial.max_concurrent=1",  # in one order, so that the same ones are ended every time
    ]
    assert main(arguments) == 0
    states = {
        path.parent.name: json.loads(path.read_text())["state"]
        for path in tmp_path.glob("trials/*/result.json")
    }
    assert len(states) == 5
    assert set(states.values()) == {"done", "stopped"}
    logs = {path: path.read_bytes() for path in tmp_path.glob("trials/*/pretrain/metrics.jsonl")}
    assert len(logs) == 5
    results = {path: path.read_bytes() for path in tmp_path.glob("trials/*/result.json")}
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in logs} == logs
    assert {path: path.read_bytes() for path in results} == results


@pytest.mark.slow
def test_optuna_and_asha_on_ray_tune(shard_set: Path, tmp_path: Path) -> None:
    arguments = [
        *("tune", "study=learning_rate", f"shards={shard_set}", f"out={tmp_path}"),
        *(more("epochs=4"), "study.num_trials=3"),
    ]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "study.json").read_text())
    assert len(record["trials"]) == 3
    for trial in record["trials"]:
        assert 1e-4 <= trial["settings"]["pretrain.optim.lr"] <= 1e-2
        assert trial["result"]["state"] in ("done", "stopped")
        assert 0 <= trial["result"]["figure"] <= 1
    assert len({trial_id_of["trial"] for trial_id_of in record["trials"]}) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_is_heard_after_tune_as_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune leaves its own answer in place; a study has many runs of it, and work between them."""
    from ray.tune import Tuner

    asked = study(tmp_path, parameters=(Parameter("pretrain.seed", (0, 1)),))
    trials = Trials(asked, tmp_path, TrialResources())
    for settings in points(asked):
        folder = trials.folder(settings)
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "probes.jsonl").write_text('{"accuracy": 0.5}\n')
        keep_result(folder, TrialResult("done", 0.5, 1.0))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)
    with on_ray("local"):
        assert len(run_on_tune(trials, search(asked), "first")) == 2
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)) == before
        # One that comes when every trial has ended leaves no trial to tell of it.
        fit = Tuner.fit

        def fit_with_a_late_interrupt(tuner: Tuner) -> object:
            found = fit(tuner)
            signal.raise_signal(signal.SIGINT)
            return found

        monkeypatch.setattr(Tuner, "fit", fit_with_a_late_interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_on_tune(trials, search(asked), "second")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_trial_leaves_every_core_to_its_ranks_on_ray(shard_set: Path, tmp_path: Path) -> None:
    """On two cores it waited for ever: a hundredth of one was its own."""
    ranks = ("runtime.num_workers=2", "runtime.threads_per_worker=1")
    arguments = [
        *("tune", "study=ablations", f"shards={shard_set}", f"out={tmp_path}", more(*ranks)),
        "study.variants=[{name: full, overrides: []}]",
        "study.parameters=[{key: pretrain.seed, values: [0]}]",
        *("trial.name=ray", "trial.cpus=2"),
    ]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("trials/*/result.json")
    assert json.loads(path.read_text())["state"] == "done"


def test_ids_of_trials_are_names_of_folders(shard_set: Path) -> None:
    (settings,) = points(study(shard_set))
    assert trial_id(study(shard_set), settings).isalnum()
