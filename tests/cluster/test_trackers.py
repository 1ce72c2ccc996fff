"""Trackers get every line of the log, and none of them is needed."""

import importlib.util
import struct
from pathlib import Path

import pytest

from cluster.compose import ConfigError
from cluster.trackers import Trackers

REPORTS = [
    {"step": step, "total_steps": 3, "loss": 1 / step, "optim": 0.5, "eta_s": 1.0}
    for step in (1, 2, 3)
]
SETTINGS = {"optim": {"lr": 0.1}, "seed": 3}


def events_in(folder: Path) -> dict[tuple[str, int], float]:
    """Read TensorBoard's records: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def track(names: list[str], out: Path, resumed_at: int = 0) -> None:
    with Trackers(names, out, SETTINGS, resumed_at) as trackers:
        for report in REPORTS[resumed_at:]:
            trackers.log(report)


def test_tensorboard_has_every_figure_of_every_step(tmp_path):
    track(["tensorboard"], tmp_path / "run")
    events = events_in(tmp_path / "run" / "tensorboard")
    assert {tag for tag, _ in events} == {"loss", "optim", "eta_s"}
    assert [events["loss", step] for step in (1, 2, 3)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_steps_that_were_sent_are_not_sent_again(tmp_path):
    """A run that is begun again repeats the steps since its checkpoint."""
    with Trackers(["tensorboard"], tmp_path / "run", SETTINGS, 1) as trackers:
        for report in [*REPORTS, *REPORTS]:
            trackers.log(report)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("events.*"))
    assert content.count(b"loss") == 2


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def fail(self, step, figures):
        raise ConnectionError("the server is down")

    monkeypatch.setattr("cluster.trackers._TensorBoard.log", fail)
    track(["tensorboard"], tmp_path / "run")
    assert caplog.text.count("trackers=[tensorboard] failed and gets no more figures") == 1


def test_without_trackers_nothing_is_written(tmp_path):
    track([], tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("cluster.trackers.importlib.import_module", absent)
    for name, package in (("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb",) * 2):
        with pytest.raises(ConfigError, match=f"{package} is not installed; pip install {package}"):
            track([name], tmp_path / "run")


@pytest.mark.filterwarnings("ignore")  # its own, of the database that it uses
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_has_the_figures_and_the_settings(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "run").mkdir()
    track(["mlflow"], tmp_path / "run")
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.params == {"optim.lr": "0.1", "seed": "3"}
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [
        (report["step"], pytest.approx(report["loss"])) for report in REPORTS
    ]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_works_without_an_account(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "run").mkdir()
    track(["wandb"], tmp_path / "run")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
