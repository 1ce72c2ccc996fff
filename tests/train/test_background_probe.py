"""Probes of a run tell what its network knows, on shapes of their own, and change nothing of it."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import is_running
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import picpoint.train.background_probe as background
from picpoint.data.split import split_shapes
from picpoint.linear_probe import ProbeError
from picpoint.model import build_point_encoder
from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics
from picpoint.train.background_probe import PROBE_FILE, open_probe
from picpoint.train.checkpoint import newest_checkpoint
from picpoint.train.probe_child import ProbeFigures
from picpoint.train.probe_shapes import OnlineProbeConfig, choose_probe_shapes
from picpoint.train.settings import PretrainConfig
from shards.manifest import load_manifest
from shards.reader import Request, ShardReader

PROBE = OnlineProbeConfig(every=8, per_class=4)


@pytest.fixture
def validated(tiny_config: PretrainConfig) -> PretrainConfig:
    """Four shapes a step, two steps an epoch, ten steps; a fold of validation shapes."""
    holdout = dataclasses.replace(tiny_config.data.holdout, validation_fold=1)
    data = dataclasses.replace(tiny_config.data, holdout=holdout)
    return dataclasses.replace(tiny_config, data=data, epochs=5)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / PROBE_FILE).read_text().splitlines()]


def state(folder: Path) -> dict:
    checkpoint, _ = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return checkpoint.state


def assert_equal(mine: object, other: object) -> None:
    """Bit for bit, at any depth."""
    if isinstance(mine, torch.Tensor):
        assert torch.equal(mine, other)
    elif isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key in mine:
            assert_equal(mine[key], other[key])
    elif isinstance(mine, list):
        for one, two in zip(mine, other, strict=True):
            assert_equal(one, two)
    else:
        assert mine == other


@pytest.fixture
def patient(monkeypatch):
    """Training that waits for its turn: a step of these runs takes less time than a probe."""
    real = background.BackgroundProbe.offer

    def offer(self, *arguments):
        while self._waiting.full():
            time.sleep(0.01)
        real(self, *arguments)

    monkeypatch.setattr(background.BackgroundProbe, "offer", offer)


def test_probes_change_no_bit_of_the_run_and_one_that_is_killed_makes_the_same(
    train, validated, tmp_path, patient
):
    settings = {"data": validated.data, "epochs": 5}
    without = train("without", **settings)
    probed = train("probed", **settings, probe=PROBE)
    assert_equal(state(tmp_path / "probed"), state(tmp_path / "without"))
    assert [report.loss for report in probed] == [report.loss for report in without]
    assert not (tmp_path / "without" / PROBE_FILE).exists()

    told = lines(tmp_path / "probed")
    assert [line["step"] for line in told] == [0, 2, 4, 6, 8, 10]
    assert [line["samples_seen"] for line in told] == [0, 8, 16, 24, 32, 40]
    assert {line["split"] for line in told} == {"validation (fold 1 of 5, by shape)"}
    assert all(line["num_left_out"] == 0 for line in told)

    assert told[-1]["accuracy"] == accuracy_oracle(validated, state(tmp_path / "probed"))
    shapes = choose(validated)
    assert told[-1]["num_shapes"] == len(shapes.validation) > 2
    assert (told[-1]["num_train"], told[-1]["num_classes"]) == (len(shapes.train), 3)

    train("killed", **settings, probe=PROBE, steps=5)  # the last checkpoint is that of step 3
    train("killed", **settings, probe=PROBE, resume="auto")
    resumed = lines(tmp_path / "killed")
    # What was at work at the kill is lost, but for a probe of the very step of the checkpoint.
    assert [line["step"] for line in resumed][-4:] == [4, 6, 8, 10]
    assert len({line["step"] for line in resumed}) == len(resumed)
    accuracy = {line["step"]: line["accuracy"] for line in told}
    assert all(line["accuracy"] == accuracy[line["step"]] for line in resumed)


def choose(config: PretrainConfig, probe: OnlineProbeConfig = PROBE):
    manifest = load_manifest(config.data.shards)
    return choose_probe_shapes(manifest, config.data.holdout, probe, config.ghost_batch)


@torch.no_grad()
def accuracy_oracle(config: PretrainConfig, state: dict) -> float:
    """Take the checkpoint's encoder its own way to the answers."""
    prefix = "point_encoder."
    encoder = build_point_encoder(config.point_encoder, config.ghost_batch)
    weights = state["model"].items()
    encoder.load_state_dict(
        {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}
    )
    reader = ShardReader(config.data.shards)
    clouds = torch.stack(
        [
            torch.from_numpy(reader.read(Request(row)).points[:48].astype(np.float32))
            for row in range(reader.manifest.num_samples)
        ]
    )
    split = split_shapes(reader.manifest, config.data.holdout)
    trained = np.flatnonzero(split.train)
    norms = [module for module in encoder.modules() if isinstance(module, GhostBatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    # Few enough that all are taken: shuffled twice, once to choose and once to deal.
    chosen = np.sort(np.random.default_rng(0).permutation(trained))
    dealt = np.random.default_rng(config.seed).permutation(chosen)
    encoder.train()
    encoder(clouds[dealt[: len(dealt) // 2 * 2]])
    update_running_statistics(encoder)
    features = encoder.eval()(clouds).pooled.numpy().astype(np.float64)
    shapes = choose(config)
    machine = make_pipeline(StandardScaler(), LinearSVC(C=0.01, tol=1e-6, max_iter=100_000))
    machine.fit(features[shapes.train], shapes.labels[shapes.train])
    return float(machine.score(features[shapes.validation], shapes.labels[shapes.validation]))


@pytest.mark.parametrize("per_class", [2, 3, 50])
def test_who_is_probed_is_trained_on_or_of_the_validation_fold_and_never_of_the_test(
    validated, per_class
):
    shapes = choose(validated, OnlineProbeConfig(every=1, per_class=per_class))
    manifest = load_manifest(validated.data.shards)
    split = split_shapes(manifest, validated.data.holdout)
    assert split.test.any()
    assert split.validation[shapes.validation].all()
    assert split.train[shapes.train].all()
    assert split.train[shapes.calibrating].all()
    for rows in (shapes.train, shapes.validation):
        assert np.bincount(shapes.labels[rows]).max() <= per_class
    if per_class == 50:
        assert len(shapes.validation) == split.validation.sum()
        assert len(shapes.train) == split.train.sum()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"every": -1}, "probe.every=-1"),
        ({"per_class": 1}, "probe.per_class=1"),
        ({"threads": 0}, "probe.threads=0"),
        ({"penalty": 0.0}, "probe.penalty=0.0"),
    ],
)
def test_a_probe_out_of_bounds_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        OnlineProbeConfig(**changes)


def test_probes_without_a_validation_fold_are_refused_with_what_to_set(tiny_config):
    with pytest.raises(ValueError, match=r"data\.holdout\.validation_fold=1") as raised:
        dataclasses.replace(tiny_config, probe=PROBE)
    assert "\n" not in str(raised.value)


def test_a_class_that_cannot_be_learnt_is_refused_before_training(validated, train, monkeypatch):
    """Of five folds of two shapes a class, one is left to learn from."""
    manifest = load_manifest(validated.data.shards)
    real = type(manifest).read_texts

    def relabelled(self, *names):
        columns = dict(zip(names, real(self, *names), strict=True))
        if "label" in columns:
            columns["label"] = tuple(str(row % 9) for row in range(18))
        return tuple(columns[name] for name in names)

    monkeypatch.setattr(type(manifest), "read_texts", relabelled)
    with pytest.raises(ProbeError, match="a probe needs 2"):
        train("run", data=validated.data, probe=PROBE)


class HeldBack:
    """Stands for the child process: answers when it is let."""

    may_answer = threading.Semaphore(0)

    def __init__(self, config, shapes):
        del config, shapes
        self.is_gone = False

    def ask(self, weights):
        assert type(self).may_answer.acquire(timeout=60)
        return ProbeFigures(float(next(iter(weights.values())).sum()), 1, 1, 1, 0.0)

    def kill(self):
        self.is_gone = True
        type(self).may_answer.release()


def test_training_never_waits_and_what_is_left_out_is_counted(
    validated, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(background, "_Child", HeldBack)
    encoder = torch.nn.Linear(1, 1, bias=False)
    config = dataclasses.replace(validated, probe=PROBE)
    with open_probe(config, tmp_path, choose(validated), 0) as probe:
        for step in range(6):
            torch.nn.init.constant_(encoder.weight, step)
            probe.offer(encoder, step, 4 * step)
            while step == 0 and probe._waiting.full():  # till the first is at work
                time.sleep(0.01)
        torch.nn.init.constant_(encoder.weight, 7)
        for _ in range(3):
            HeldBack.may_answer.release()
        probe.finish(encoder, 7, 28, lambda: False)
    # The first is at work, the second waits, the last is always taken; each as it was when handed.
    told = [(line["step"], line["accuracy"]) for line in lines(tmp_path)]
    assert told == [(0, 0.0), (1, 1.0), (7, 7.0)]
    assert lines(tmp_path)[-1]["num_left_out"] == 4
    assert caplog.text.count("two before it are not done") == 1


def test_a_run_that_is_stopped_does_not_wait_for_its_probes(validated, tmp_path, monkeypatch):
    monkeypatch.setattr(background, "_Child", HeldBack)
    config = dataclasses.replace(validated, probe=PROBE)
    with open_probe(config, tmp_path, choose(validated), 0) as probe:
        probe.finish(torch.nn.Linear(1, 1), 1, 4, lambda: True)
    assert lines(tmp_path) == []


def test_a_killed_child_costs_its_probe_and_no_other(
    train, validated, tmp_path, monkeypatch, caplog
):
    started = []
    real = background._Child.ask

    def watched(self, weights):
        started.append(self._process.pid)
        if len(started) == 1:
            os.kill(self._process.pid, signal.SIGKILL)
        return real(self, weights)

    monkeypatch.setattr(background._Child, "ask", watched)
    with caplog.at_level(logging.WARNING):
        train("run", data=validated.data, epochs=1, probe=dataclasses.replace(PROBE, every=100))
    assert [line["step"] for line in lines(tmp_path / "run")] == [2]
    assert "no probe of step 0: its process ended (exit code -9)" in caplog.text
    deadline = time.monotonic() + 20
    while any(map(is_running, started)):
        assert time.monotonic() < deadline, "a child outlives its run"
        time.sleep(0.1)


@pytest.mark.parametrize("on_corrupt", ["fail", "skip_and_count"])
def test_a_damaged_validation_shape_is_told_of_and_training_goes_on(
    train, validated, tmp_path, damage_sample, caplog, on_corrupt
):
    shapes = choose(validated)
    damaged = damage_sample(Path(validated.data.shards), tmp_path, int(shapes.validation[0]))
    data = dataclasses.replace(validated.data, shards=str(damaged), on_corrupt=on_corrupt)
    with caplog.at_level(logging.WARNING):
        reports = train("run", data=data, epochs=1, probe=dataclasses.replace(PROBE, every=100))
    assert len(reports) == 2
    if on_corrupt == "fail":
        assert lines(tmp_path / "run") == []
        assert "no probe of step 0: CorruptSampleError" in caplog.text
    else:
        counts = [line["num_shapes"] for line in lines(tmp_path / "run")]
        assert counts == [len(shapes.validation) - 1] * 2


LONELY = """
import os, sys, time
import torch
from picpoint.train.background_probe import _Child
from tests.train.test_background_probe import choose, load_lonely

if __name__ == "__main__":
    config = load_lonely(sys.argv[1])
    child = _Child(config, choose(config))
    print(child._process.pid, flush=True)
    time.sleep(600)
"""


def load_lonely(shards: str) -> PretrainConfig:
    from picpoint.data.config import DataConfig
    from picpoint.data.split import HoldoutConfig
    from picpoint.encoders.dgcnn import DgcnnConfig
    from picpoint.encoders.image import ImageEncoderConfig
    from picpoint.heads.projection import ProjectionConfig
    from picpoint.losses.info_nce import LossConfig
    from picpoint.train.state import OptimConfig

    return PretrainConfig(
        data=DataConfig(shards, holdout=HoldoutConfig(validation_fold=1)),
        point_encoder=DgcnnConfig(),
        image_encoder=ImageEncoderConfig(),
        heads=ProjectionConfig(),
        loss=LossConfig(),
        optim=OptimConfig(),
    )


@pytest.mark.slow
def test_a_child_ends_with_the_rank_that_is_killed(shard_set, tmp_path):
    script = tmp_path / "lonely.py"
    script.write_text(LONELY)
    root = Path(__file__).parent.parent.parent
    rank = subprocess.Popen(
        [sys.executable, str(script), str(shard_set)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    assert rank.stdout is not None
    child = int(rank.stdout.readline())
    assert is_running(child)
    rank.kill()
    rank.wait()
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    rank.stdout.close()
