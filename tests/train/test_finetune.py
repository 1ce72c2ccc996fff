"""Fine-tuning learns, resumes bit for bit, and says what came of it."""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cloud_sets import CLASSES, COUNTS, INFO, SCENES_INFO, clouds, scenes, write_set

from picpoint.data.cloud_augment import CloudAugmentConfig
from picpoint.data.clouds import CloudDataConfig
from picpoint.data.dataset import DatasetError, open_dataset
from picpoint.data.dataset_split import split_clouds
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.model import build_point_encoder
from picpoint.scores import scene_figures
from picpoint.train import checkpoint_writer
from picpoint.train import notice as notices
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.train.claim import ClaimError
from picpoint.train.evaluation import Evaluation, evaluate
from picpoint.train.examples import load_examples
from picpoint.train.finetune import WEIGHTS_FILE, finetune
from picpoint.train.finetune_log import FinetuneReport
from picpoint.train.finetune_result import read_evaluations, read_result
from picpoint.train.finetune_settings import FinetuneConfig, build_network
from picpoint.train.finite import NonFiniteLossError
from picpoint.train.state import OptimConfig
from picpoint.weights.encoder_file import save_encoder
from picpoint.weights.transfer import TransferRefusedError
from shards.cloud_sets import CloudReader
from shards.errors import PlanError

DGCNN = DgcnnConfig(widths=(8, 8, 8, 16), pooled_width=16, num_neighbours=4)
POINTNEXT = PointNextConfig(
    width=4, strides=(2, 2), blocks=(0, 1), radius=0.6, num_neighbours=6, local_stage=1
)
MILD = CloudAugmentConfig(scale_min=0.9, scale_max=1.1, shift=0.05)


@pytest.fixture(scope="session")
def solids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("solids"), list(clouds()))


@pytest.fixture
def config(solids: Path) -> FinetuneConfig:
    """Three steps an epoch."""
    return FinetuneConfig(
        task="classify",
        data=CloudDataConfig(shards=str(solids), num_points=48, augment=MILD),
        point_encoder=DGCNN,
        optim=OptimConfig(lr=3e-3),
        global_batch=8,
        ghost_batch=4,
        epochs=4,
        eval_every=1,
        eval_batch=5,
        precision="fp32",
        log_every=1,
    )


Run = Callable[..., list[FinetuneReport]]


@pytest.fixture
def train(config: FinetuneConfig, tmp_path: Path) -> Run:
    def run(
        folder: str = "run", resume: str = "never", steps: int | None = None, **changes: object
    ) -> list[FinetuneReport]:
        reports = finetune(
            dataclasses.replace(config, **changes), tmp_path / folder, torch.device("cpu"), resume
        )
        if steps is None:
            return list(reports)
        seen = [next(reports) for _ in range(steps)]
        reports.close()
        return seen

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return checkpoint.state["model"]


@pytest.mark.parametrize(
    "encoder", [DGCNN, dataclasses.replace(POINTNEXT, width=16)], ids=["dgcnn", "pointnext"]
)
def test_solids_are_learnt_from_scratch(train: Run, tmp_path: Path, encoder: object) -> None:
    train(point_encoder=encoder, epochs=30, eval_every=30, votes=2)
    result = read_result(tmp_path / "run")
    # Chance is a third; the test clouds were never seen.
    assert result.last["accuracy"] > 0.9
    assert result.last["accuracy_voted"] > 0.9
    assert result.last["accuracy"] == result.last["mean_class_accuracy"]  # classes of one size
    assert [sum(row) for row in result.confusion] == [COUNTS["test"]] * len(CLASSES)
    assert (result.num_train, result.num_evaluated) == (24, 12)


@pytest.mark.parametrize(
    "encoder", [DGCNN, dataclasses.replace(POINTNEXT, width=16)], ids=["dgcnn", "pointnext"]
)
def test_parts_are_learnt(train: Run, tmp_path: Path, encoder: object) -> None:
    settings = {"epochs": 30, "eval_every": 30, "label_smoothing": 0.0}
    train(task="parts", point_encoder=encoder, optim=OptimConfig(lr=1e-2), **settings)
    result = read_result(tmp_path / "run")
    last = result.last
    # An object that is all one part scores 0.25: half of it is right, the other part is missed.
    assert last["instance_miou"] > 0.55
    assert last["class_miou"] == pytest.approx(last["instance_miou"])
    assert list(result.miou_of_class) == list(CLASSES)
    assert sum(result.miou_of_class.values()) / 3 == pytest.approx(last["class_miou"])
    assert last["instance_miou_of_all_parts"] <= last["instance_miou"] + 1e-9


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("rooms"), list(scenes()), SCENES_INFO)


@pytest.fixture
def rooms_data(rooms: Path) -> CloudDataConfig:
    return CloudDataConfig(
        shards=str(rooms),
        train=("Area_1",),
        test=("Area_5",),
        num_points=48,
        normalise="none",
        augment=dataclasses.replace(MILD, rotation="yaw"),
    )


@pytest.mark.parametrize(
    "encoder", [DGCNN, dataclasses.replace(POINTNEXT, width=16)], ids=["dgcnn", "pointnext"]
)
def test_things_of_scenes_are_learnt(
    train: Run, tmp_path: Path, rooms_data: CloudDataConfig, encoder: object
) -> None:
    settings = {"epochs": 24, "eval_every": 24, "label_smoothing": 0.0, "task": "scenes"}
    train(data=rooms_data, point_encoder=encoder, optim=OptimConfig(lr=3e-3), **settings)
    result = read_result(tmp_path / "run")
    # All floor would have an mIoU of 1/9.
    assert result.last["miou"] > 0.6
    assert (result.num_train, result.num_evaluated, result.evaluated_on) == (16, 8, "Area_5")
    counts = torch.tensor(result.confusion)
    assert counts.sum() == 8 * 48  # every point of every block, once
    assert result.last == pytest.approx(scene_figures(counts))


def test_scenes_cut_anywhere_go_on_bit_for_bit(
    train: Run, tmp_path: Path, rooms_data: CloudDataConfig
) -> None:
    data = dataclasses.replace(
        rooms_data, augment=dataclasses.replace(rooms_data.augment, color_drop=0.5)
    )
    train("whole", task="scenes", data=data)
    train("cut", task="scenes", data=data, steps=3)  # its checkpoint is of step 2
    train("cut", task="scenes", data=data, resume="auto")
    mine, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_validation_on_scenes_holds_back_whole_rooms(
    config: FinetuneConfig, rooms_data: CloudDataConfig
) -> None:
    held = dataclasses.replace(rooms_data, evaluate_on="validation", validation_share=0.25)
    dataset = open_dataset(CloudReader(held.shards))
    split = split_clouds(held, dataset)
    (ids,) = dataset.reader.manifest.read_texts("source_id")
    learnt, measured = (
        {ids[row].rpartition("/")[0] for row in rows.tolist()}
        for rows in (split.train, split.evaluated)
    )
    assert (len(learnt), len(measured)) == (3, 1)
    assert not learnt & measured
    assert (len(split.train), len(split.evaluated)) == (12, 4)


def test_a_gradient_is_not_cut_to_what_is_no_number(config: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match="clip_grad_norm=nan"):
        dataclasses.replace(config, clip_grad_norm=float("nan"))


def test_scenes_in_other_units_or_of_other_sets_are_refused(
    train: Run, rooms_data: CloudDataConfig, solids: Path
) -> None:
    with pytest.raises(ValueError, match=r"needs data\.normalise=none"):
        train(task="scenes", data=dataclasses.replace(rooms_data, normalise="unit_sphere"))
    with pytest.raises(DatasetError, match="does not say what things"):
        train(task="scenes", data=CloudDataConfig(shards=str(solids), normalise="none"))


@pytest.mark.parametrize("encoder", [DGCNN, POINTNEXT], ids=["dgcnn", "pointnext"])
def test_clouds_are_kept_with_their_labels_and_what_was_said_of_them(
    train: Run, tmp_path: Path, encoder: object
) -> None:
    train(task="parts", point_encoder=encoder, epochs=1)
    kept = load_examples(tmp_path / "run")
    # The first of every class, then the second of every class.
    assert [cloud.class_name for cloud in kept] == [*CLASSES, *CLASSES, *CLASSES[:2]]
    assert len({cloud.key for cloud in kept}) == 8
    for cloud in kept:
        first, end = INFO.parts_of_class[cloud.class_name]
        assert cloud.points.shape == (48, 3)
        assert set(cloud.truth.tolist()) == {first, first + 1}
        assert first <= cloud.predicted.min() <= cloud.predicted.max() < end
        # Points and labels belong together: the second part lies above the first.
        low, high = (cloud.points[cloud.truth == first + part, 1] for part in (0, 1))
        assert low.max() < high.min()
    result = read_result(tmp_path / "run")
    assert result.parameters == sum(
        value.numel()
        for name, value in weights(tmp_path / "run").items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )


def test_a_task_without_labels_of_points_keeps_no_clouds(train: Run, tmp_path: Path) -> None:
    train(epochs=1)
    assert load_examples(tmp_path / "run") == ()
    (tmp_path / "run" / "examples.npz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="damaged"):
        load_examples(tmp_path / "run")


@pytest.mark.parametrize("encoder", [DGCNN, POINTNEXT], ids=["dgcnn", "pointnext"])
def test_a_cut_run_goes_on_bit_for_bit(train: Run, tmp_path: Path, encoder: object) -> None:
    train("whole", point_encoder=encoder)
    train("cut", point_encoder=encoder, steps=5)  # its checkpoint is of step 3, the first epoch
    resumed = train("cut", resume="auto", point_encoder=encoder)
    assert resumed[0].step == 4
    mine, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    for name in ("evaluations.jsonl", "result.json"):
        whole, cut = (tmp_path / folder / name for folder in ("whole", "cut"))
        assert whole.read_text() == cut.read_text()
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 13))


def test_a_run_that_begins_where_another_ended_is_measured(train: Run, tmp_path: Path) -> None:
    train("first", votes=1)
    assert train("second", resume=str(tmp_path / "first"), votes=1) == []
    first, second = (read_result(tmp_path / folder) for folder in ("first", "second"))
    assert second.last == first.last
    assert second.confusion == first.confusion
    assert second.num_evaluations == 1
    assert read_evaluations(tmp_path / "second") == read_evaluations(tmp_path / "first")[-1:]
    # It has its weights itself, and is measured once.
    mine, other = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    train("second", resume="auto", votes=1)
    assert len(read_evaluations(tmp_path / "second")) == 1


def test_another_order_of_reading_ahead_changes_nothing(train: Run, config: FinetuneConfig) -> None:
    data = dataclasses.replace(config.data, threads=5, read_ahead=7)
    assert [r.loss for r in train("one")] == [r.loss for r in train("other", data=data)]


def test_random_subsets_are_others_in_each_epoch(train: Run, config: FinetuneConfig) -> None:
    data = dataclasses.replace(config.data, subset="random")
    first, random = train("first"), train("random", data=data)
    assert [r.loss for r in first] != [r.loss for r in random]
    again = train("again", data=data)
    assert [r.loss for r in random] == [r.loss for r in again]


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    encoder = build_point_encoder(DGCNN, 4)
    save_encoder(encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


def test_pretrained_weights_are_used_and_accounted_for(
    train: Run, tmp_path: Path, pretrained: Path
) -> None:
    train("run", weights=str(pretrained), epochs=1, optim=OptimConfig(lr=1e-12, weight_decay=0.0))
    encoder = build_point_encoder(DGCNN, 4)
    torch.manual_seed(1)
    told = build_point_encoder(DGCNN, 4).state_dict()
    found = weights(tmp_path / "run")
    for name, value in encoder.named_parameters():
        torch.testing.assert_close(found[f"encoder.{name}"], told[name], rtol=0, atol=1e-6)
        assert value.ndim == 1 or not torch.equal(told[name], value)  # seeds differ
    table = (tmp_path / "run" / WEIGHTS_FILE).read_text()
    assert f"{len(encoder.state_dict())} used, 0 initialised, 0 left over, 0 refused" in table
    assert str(pretrained) in table


def test_a_frozen_encoder_keeps_every_bit_and_its_head_learns(
    train: Run, tmp_path: Path, pretrained: Path
) -> None:
    reports = train("run", weights=str(pretrained), freeze=True, epochs=10)
    torch.manual_seed(1)
    told = build_point_encoder(DGCNN, 4).state_dict()
    found = weights(tmp_path / "run")
    assert all(torch.equal(found[f"encoder.{name}"], value) for name, value in told.items())
    assert sum(r.loss for r in reports[-3:]) < sum(r.loss for r in reports[:3])


def test_weights_of_another_shape_are_refused(train: Run, pretrained: Path) -> None:
    wide = dataclasses.replace(DGCNN, pooled_width=24)
    with pytest.raises(TransferRefusedError, match=r"linear\.weight: \(16, 40\) in the encoder"):
        train("run", weights=str(pretrained), point_encoder=wide)
    # They may begin anew, if someone says so.
    anew = ("linear.", "norm.")
    assert train("run", weights=str(pretrained), point_encoder=wide, initialise=anew, epochs=1)


def test_weights_that_fit_nowhere_are_refused(train: Run, pretrained: Path) -> None:
    with pytest.raises(TransferRefusedError, match=r"do not fit|no tensor"):
        train("run", weights=str(pretrained), point_encoder=POINTNEXT)


def test_weights_that_are_not_there_are_refused(train: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"weights=.*holds no checkpoint"):
        train("run", weights=str(tmp_path / "empty"))


def test_validation_never_reads_the_test_split(
    train: Run, config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shards.cloud_sets import CloudReader

    asked: set[int] = set()
    stream = CloudReader.stream

    def watched(self, requests, read_ahead):
        def noted():
            for request in requests:
                asked.add(request.sample_index)
                yield request

        return stream(self, noted(), read_ahead)

    monkeypatch.setattr(CloudReader, "stream", watched)
    data = dataclasses.replace(config.data, evaluate_on="validation", validation_share=0.25)
    train(data=data)
    assert asked == set(range(24))  # the training split lies first
    result = read_result(tmp_path / "run")
    assert result.evaluated_on == "validation of train"
    assert (result.num_train, result.num_evaluated) == (18, 6)


def test_few_labels_are_some_of_every_class(train: Run, config: FinetuneConfig, tmp_path) -> None:
    data = dataclasses.replace(config.data, label_share=0.25)
    train(data=data, global_batch=4)
    assert read_result(tmp_path / "run").num_train == 6


def test_the_last_epoch_is_the_result_and_the_best_is_told(train: Run, tmp_path: Path) -> None:
    train(epochs=6, eval_every=2)
    evaluations = read_evaluations(tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert [each.epoch for each in evaluations] == [2, 4, 6]
    assert result.last == evaluations[-1].figures
    best = max(each.figures["accuracy"] for each in evaluations)
    assert result.best["accuracy"] == best
    assert next(e for e in evaluations if e.epoch == result.best_epoch).figures == result.best


def test_a_stop_file_saves_and_the_run_goes_on(train: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "STOP").touch()
    assert len(train("run")) == 1
    assert not (tmp_path / "run" / "result.json").exists()
    (tmp_path / "run" / "STOP").unlink()
    assert train("run", resume="auto")[0].step == 2
    train("whole")
    mine, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def saved_at(config: FinetuneConfig, folder: Path) -> list[int]:
    """Name the steps of the checkpoints that are kept."""
    found, _ = newest_checkpoint(folder / "checkpoints")
    return [] if found is None else [found.state["samples_seen"] // config.global_batch]


def test_no_step_is_told_of_before_the_checkpoint_ahead_of_it_is_written(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, told = checkpoint_writer.save_checkpoint, {}

    def slow(folder: str, step: int, *rest: Any) -> str:
        time.sleep(0.5)
        told[step] = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        return real(folder, step, *rest)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    train("run", epochs=2, eval_every=100, checkpoint_every=2)
    assert told == {2: 2, 4: 4, 6: 6}


@pytest.mark.parametrize("log_every", [1, 2])
def test_machines_that_will_be_taken_make_a_checkpoint_once(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    monkeypatch.setattr(notices, "ASK_EVERY_S", 0.0)
    rare = dataclasses.replace(config, eval_every=4, log_every=log_every)
    reports = finetune(rare, tmp_path, torch.device("cpu"), notice=lambda: frozenset("a"))
    for _ in range(4 // log_every):  # of three steps an epoch
        next(reports)
        assert saved_at(config, tmp_path) == [1]
    reports.close()


@pytest.mark.parametrize("at_step", [3, 6])
def test_what_ends_within_an_evaluation_loses_that_evaluation_alone(
    train: Run,
    config: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_step: int,
) -> None:
    """Of two epochs of three steps."""
    calls = itertools.count(1)

    def evaluate_until(*given: Any) -> Evaluation:
        if next(calls) == at_step // 3:
            raise KeyboardInterrupt
        return evaluate(*given)

    with monkeypatch.context() as patches:
        patches.setattr("picpoint.train.finetune.evaluate", evaluate_until)
        with pytest.raises(KeyboardInterrupt):
            train("run", epochs=2)
    assert saved_at(config, tmp_path / "run") == [at_step]
    train("run", resume="auto", epochs=2)
    train("whole", epochs=2)
    assert read_evaluations(tmp_path / "run") == read_evaluations(tmp_path / "whole")
    mine, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_checkpoints_are_written_between_evaluations_and_continued_from(
    train: Run, config: FinetuneConfig, tmp_path: Path
) -> None:
    train("run", steps=5, epochs=3, eval_every=3, checkpoint_every=2)
    assert saved_at(config, tmp_path / "run") == [4]
    assert train("run", resume="auto", epochs=3, eval_every=3, checkpoint_every=4)[0].step == 5
    train("whole", epochs=3, eval_every=3)
    mine, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("votes", [0, 1])
def test_scores_that_are_no_numbers_are_no_class(config: FinetuneConfig, votes: int) -> None:
    """One cloud of the last batch is told nothing; where votes are asked for, in the vote alone."""
    dataset = open_dataset(CloudReader(config.data.shards, members=config.view.members))
    rows = dataset.rows_of(["test"])
    calls = itertools.count(1)
    last_call = -(-len(rows) // config.eval_batch) * (votes + 1)

    def spoil(network: torch.nn.Module, given: object, scores: torch.Tensor) -> torch.Tensor:
        is_spoilt = next(calls) == last_call
        return scores.index_fill(0, torch.tensor([1]), torch.nan) if is_spoilt else scores

    network = build_network(config, dataset)
    network.register_forward_hook(spoil)
    with pytest.raises(NonFiniteLossError, match="scores of clouds such as"):
        evaluate(network, dataset, rows, config, "fp32", torch.device("cpu"), votes)
    assert next(calls) == last_call + 1


def test_other_settings_do_not_go_on(train: Run) -> None:
    train("run", steps=3)
    with pytest.raises(ClaimError, match=r"label_smoothing was 0\.2, is 0\.1"):
        train("run", resume="auto", label_smoothing=0.1)


def test_a_class_that_was_never_learnt_is_refused(
    train: Run, config: FinetuneConfig, tmp_path: Path
) -> None:
    unlearnt = [each for each in clouds() if not each.source_id.startswith("train/plate")]
    folder = write_set(tmp_path / "set", unlearnt)
    with pytest.raises(DatasetError, match="class 'plate' is tested and not trained on"):
        train(data=dataclasses.replace(config.data, shards=str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": ("tset",)}, r"no split 'tset': there are test \(12\), train \(24\)"),
        ({"num_points": 81}, r"data\.num_points=81: cloud .* holds 80"),
    ],
)
def test_what_the_set_does_not_hold_is_told(
    train: Run, config: FinetuneConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        train(data=dataclasses.replace(config.data, **changes))


def test_too_large_a_batch_is_refused(train: Run) -> None:
    with pytest.raises(PlanError, match="global_batch=32: only 24 clouds"):
        train(global_batch=32)


def test_parts_need_a_set_that_says_which_parts_a_class_has(
    train: Run, config: FinetuneConfig, tmp_path: Path
) -> None:
    bare = dataclasses.replace(INFO, part_names=(), parts_of_class={})
    folder = write_set(tmp_path / "set", list(clouds()), bare)
    with pytest.raises(DatasetError, match="does not say which parts"):
        train(task="parts", data=dataclasses.replace(config.data, shards=str(folder)))


def test_a_loss_that_is_no_number_stops_before_the_update(train: Run, tmp_path: Path) -> None:
    from picpoint.train.finite import NonFiniteLossError

    with pytest.raises(NonFiniteLossError, match=r"(loss|gradient norm) is (nan|inf)"):
        train(optim=OptimConfig(lr=1e30), epochs=4)
    assert list((tmp_path / "run").glob("nonfinite-*.json"))
