"""Whole rooms: trained on in crops, and every raw point is told and counted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from cloud_sets import SCENES_INFO, rooms, scenes, write_set
from torch import nn

from picpoint.batch import CloudBatch
from picpoint.data.cloud_augment import CloudAugmentConfig
from picpoint.data.clouds import CloudDataConfig, CloudView, choose_points, nearest_rows
from picpoint.data.dataset import DatasetError, open_dataset
from picpoint.data.dataset_split import split_clouds
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.scores import scene_figures
from picpoint.train.examples import load_examples
from picpoint.train.finetune import finetune
from picpoint.train.finetune_result import read_result
from picpoint.train.finetune_settings import FinetuneConfig
from picpoint.train.finite import NonFiniteLossError
from picpoint.train.room_evaluation import room_confusion
from picpoint.train.state import OptimConfig
from shards.cloud_sets import CloudReader
from shards.clouds import Cloud

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole_rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("whole"), list(rooms()), SCENES_INFO)


@pytest.fixture
def config(whole_rooms: Path) -> FinetuneConfig:
    """Three steps an epoch."""
    return FinetuneConfig(
        task="scenes",
        data=CloudDataConfig(
            shards=str(whole_rooms),
            train=("Area_1",),
            test=("Area_5",),
            num_points=64,
            subset="crop",
            normalise="none",
            augment=CloudAugmentConfig(rotation="yaw", scale_min=0.9, scale_max=1.1, shift=0.0),
        ),
        point_encoder=PointNextConfig(
            width=16, strides=(2, 2), blocks=(0, 1), radius=0.6, num_neighbours=6, local_stage=1
        ),
        optim=OptimConfig(lr=3e-3),
        label_smoothing=0.0,
        global_batch=2,
        ghost_batch=2,
        epochs=60,
        eval_every=60,
        eval_batch=3,
        precision="fp32",
        log_every=1,
    )


def other_room() -> Cloud:
    """A room of Area_5."""
    return next(room for room in rooms() if room.source_id.startswith("Area_5"))


class ByColour(nn.Module):
    """Says which thing a point is by its colour, as all points here may be told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, batch: CloudBatch) -> torch.Tensor:
        self.seen.append(len(batch.keys))
        red, _, blue = batch.features[..., :3].unbind(-1)
        return torch.stack([torch.full_like(red, 0.5), red, blue], dim=-1)


def test_every_raw_point_is_told_by_its_voxel(config: FinetuneConfig) -> None:
    dataset = open_dataset(CloudReader(config.data.shards, members=config.view.members))
    rows = dataset.rows_of(["Area_5"])
    network = ByColour()
    counts = room_confusion(network, dataset, rows, config, "fp32", CPU)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for room in rooms():
        if room.source_id.startswith("Area_5"):
            for label, held in zip(room.point_labels, room.label_counts, strict=True):
                expected[:, int(label)] += torch.from_numpy(held.astype(np.int64))
    assert torch.equal(counts, expected)
    assert expected.fill_diagonal_(0).sum() > 0  # raw points that their voxel tells wrong
    assert max(network.seen) == config.eval_batch


class ByCrop(nn.Module):
    """Says something else of every crop, now surely and now hardly."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 3 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        self.num_crops = 0

    def forward(self, batch: CloudBatch) -> torch.Tensor:
        first, self.num_crops = self.num_crops, self.num_crops + len(batch.keys)
        answers = self.answers[first : self.num_crops]
        return answers[:, None].expand(-1, batch.points.shape[1], -1)


def test_probabilities_of_crops_that_overlap_are_added(config: FinetuneConfig) -> None:
    dataset = open_dataset(CloudReader(config.data.shards, members=config.view.members))
    rows = dataset.rows_of(["Area_5"])
    network = ByCrop()
    counts = room_confusion(network, dataset, rows, config, "fp32", CPU)

    by_id = {room.source_id: room for room in rooms()}
    source_ids = dataset.reader.manifest.read_texts("source_id")[0]
    ways = ("probabilities added", "scores added", "the last crop")
    expected = {way: torch.zeros(3, 3, dtype=torch.int64) for way in ways}
    answers = iter(network.answers)
    for row in rows:
        room = by_id[source_ids[row]]
        summed = {way: torch.zeros(room.num_points, 3) for way in ways}
        is_seen = np.zeros(room.num_points, dtype=bool)
        while not is_seen.all():
            crop = nearest_rows(room.points, int(np.flatnonzero(~is_seen)[0]), 64)
            is_seen[crop] = True
            answer = next(answers)
            summed["probabilities added"][crop] += answer.softmax(-1)
            summed["scores added"][crop] += answer
            summed["the last crop"][crop] = answer
        held = torch.from_numpy(room.label_counts.astype(np.int64))
        for way in ways:
            for told in range(3):
                expected[way][:, told] += held[summed[way].argmax(-1) == told].sum(0)
    assert torch.equal(counts, expected["probabilities added"])
    for other in ways[1:]:
        assert not torch.equal(counts, expected[other])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_no_class(config: FinetuneConfig, value: float) -> None:
    """NaN is the largest to `argmax`: the first of them would be counted as told."""

    class Once(ByCrop):
        def forward(self, batch: CloudBatch) -> torch.Tensor:
            scores = super().forward(batch).clone()
            if self.num_crops == len(batch.keys):
                scores[0, 5, 1] = value
            return scores

    dataset = open_dataset(CloudReader(config.data.shards, members=config.view.members))
    with pytest.raises(NonFiniteLossError, match="scores of 'Area_5/"):
        room_confusion(Once(), dataset, dataset.rows_of(["Area_5"]), config, "fp32", CPU)


def test_a_room_of_fewer_points_than_a_crop_is_measured_too(config: FinetuneConfig) -> None:
    large = dataclasses.replace(config, data=dataclasses.replace(config.data, num_points=1000))
    dataset = open_dataset(CloudReader(config.data.shards, members=config.view.members))
    rows = dataset.rows_of(["Area_5"])
    network = ByColour()
    counts = room_confusion(network, dataset, rows, large, "fp32", CPU)
    again = room_confusion(network, dataset, rows, config, "fp32", CPU)
    assert torch.equal(counts, again)
    assert network.seen[:2] == [1, 1]  # a crop for each room


def test_things_of_whole_rooms_are_learnt(config: FinetuneConfig, tmp_path: Path) -> None:
    list(finetune(config, tmp_path, CPU))
    result = read_result(tmp_path)
    assert (result.num_train, result.num_evaluated) == (6, 2)
    counts = torch.tensor(result.confusion)
    total = sum(
        int(room.label_counts.sum()) for room in rooms() if room.source_id.startswith("Area_5")
    )
    assert counts.sum() == total
    assert result.last == pytest.approx(scene_figures(counts))
    # All floor would have an mIoU of 1/9.
    assert result.last["miou"] > 0.6
    assert {len(each.points) for each in load_examples(tmp_path)} == {64}


def test_a_crop_is_the_nearest_points_on_the_floor() -> None:
    (room, *_) = rooms()
    view = CloudView(50, farthest_first=False)
    chosen = choose_points(room, view, "crop", np.random.default_rng(3))
    far = np.linalg.norm(room.points - room.points[chosen[0]], axis=1)
    assert set(chosen.tolist()) == set(np.argsort(far)[:50].tolist())
    assert (np.diff(far[chosen]) >= 0).all()
    assert nearest_rows(np.zeros((3, 3), np.float32), 0, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_of_points_at_one_distance_the_first_are_taken_in_their_order() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    middle = 62
    squared = np.square(grid - grid[middle]).sum(axis=1)
    order = sorted(range(len(grid)), key=lambda row: (squared[row], row))
    for count in range(1, len(grid) + 1):
        assert nearest_rows(grid.astype(np.float32), middle, count).tolist() == order[:count]


@pytest.mark.timeout(60)
def test_more_points_at_one_place_than_a_crop_holds_are_all_told(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    points = np.zeros((200, 3), np.float32)
    room = dataclasses.replace(
        next(rooms()),
        points=points,
        colors=np.full((200, 3), (250, 5, 5), np.uint8),
        point_labels=np.ones(200, np.uint8),
        places=points,
        label_counts=np.tile(np.uint32([0, 2, 0]), (200, 1)),
    )
    manifest = write_set(tmp_path, [room, other_room()], SCENES_INFO)
    dataset = open_dataset(CloudReader(manifest, members=config.view.members))
    counts = room_confusion(ByColour(), dataset, dataset.rows_of(["Area_1"]), config, "fp32", CPU)
    assert counts[1, 1] == 400


def test_a_room_that_counts_other_labels_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    # One column would be taken for every class.
    room = next(rooms())
    narrow = dataclasses.replace(room, label_counts=room.label_counts[:, :1].copy())
    manifest = write_set(tmp_path, [narrow, other_room()], SCENES_INFO)
    dataset = open_dataset(CloudReader(manifest, members=config.view.members))
    with pytest.raises(DatasetError, match="counts 1 labels, and rooms has 3 things"):
        room_confusion(ByColour(), dataset, dataset.rows_of(["Area_1"]), config, "fp32", CPU)


def test_validation_holds_back_some_rooms_of_an_area(config: FinetuneConfig) -> None:
    data = dataclasses.replace(config.data, evaluate_on="validation", validation_share=0.3)
    dataset = open_dataset(CloudReader(data.shards))
    split = split_clouds(data, dataset)
    assert (len(split.train), len(split.evaluated)) == (4, 2)
    assert not set(split.train) & set(split.evaluated)


def test_rooms_are_cropped_and_blocks_are_not(config: FinetuneConfig, tmp_path: Path) -> None:
    whole = dataclasses.replace(config, data=dataclasses.replace(config.data, subset="first"))
    with pytest.raises(DatasetError, match=r"whole rooms; take data\.subset=crop"):
        next(finetune(whole, tmp_path / "a", CPU))
    blocks = write_set(tmp_path / "blocks", list(scenes()), SCENES_INFO)
    data = dataclasses.replace(config.data, shards=str(blocks))
    with pytest.raises(DatasetError, match="no whole rooms"):
        next(finetune(dataclasses.replace(config, data=data), tmp_path / "b", CPU))
    with pytest.raises(ValueError, match=r"data\.subset=crop.*votes=0"):
        dataclasses.replace(config, votes=10)
    with pytest.raises(ValueError, match=r"data\.subset=crop.*not classify"):
        dataclasses.replace(config, task="classify")
