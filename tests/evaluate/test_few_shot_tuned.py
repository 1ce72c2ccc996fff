"""Whole networks learn few-shot tasks, the same ones that the linear probe has."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from picpoint.data.cloud_augment import UNCHANGED
from picpoint.data.clouds import CloudDataConfig
from picpoint.data.dataset import open_dataset
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.evaluate.encoded import ProbeError
from picpoint.evaluate.few_shot_tuned import Clouds, TunedConfig, few_shot_tuned
from picpoint.evaluate.frozen import FrozenConfig, draw_episode
from picpoint.model import build_point_encoder
from picpoint.train.state import OptimConfig
from picpoint.weights.transfer import TransferRefusedError
from shards.cloud_sets import CloudReader

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cloud_sets import clouds as solids_of
from cloud_sets import write_set

DGCNN = DgcnnConfig(widths=(8, 8, 8, 16), pooled_width=16, num_neighbours=4)
POINTNEXT = PointNextConfig(
    width=4, strides=(2, 2), blocks=(0, 1), radius=0.6, num_neighbours=6, local_stage=1
)
TASKS = FrozenConfig(ways=(2,), shots=(5,), queries=4, trials=2)
# After twenty steps the running statistics of BatchNorm still lag behind the weights.
TUNED = TunedConfig(epochs=60, batch=16, optim=OptimConfig(lr=3e-3))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Clouds:
    folder = write_set(tmp_path_factory.mktemp("solids"), list(solids_of()))
    dataset = open_dataset(CloudReader(str(folder)))
    config = CloudDataConfig(shards=str(folder), num_points=48, augment=UNCHANGED)
    return Clouds(dataset, dataset.rows_of(["train"]), dataset.rows_of(["test"]), config)


@pytest.mark.parametrize("encoder", [DGCNN, POINTNEXT], ids=["dgcnn", "pointnext"])
def test_networks_learn_their_tasks(clouds: Clouds, encoder: DgcnnConfig | PointNextConfig) -> None:
    told = list[str]()
    (score,) = few_shot_tuned(encoder, None, clouds, TASKS, TUNED, CPU, told.append)
    assert (score.ways, score.shots, score.trials) == (2, 5, 2)
    assert score.mean > 0.8  # chance is a half
    assert told[-1] == "2-way 5-shot, task 2 of 2"


def test_the_same_again_gives_the_same(clouds: Clouds) -> None:
    one, short = dataclasses.replace(TASKS, trials=1), dataclasses.replace(TUNED, epochs=2, batch=4)
    first = few_shot_tuned(DGCNN, None, clouds, one, short, CPU)
    assert first == few_shot_tuned(DGCNN, None, clouds, one, short, CPU)


def test_pretrained_weights_are_where_they_begin(clouds: Clouds) -> None:
    """With a rate of next to nothing, the encoder stays what it was, so that weights tell."""
    still = dataclasses.replace(TUNED, epochs=1, optim=OptimConfig(lr=1e-12))
    torch.manual_seed(3)
    state = build_point_encoder(DGCNN, 4).state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    (score,) = few_shot_tuned(DGCNN, zeros, clouds, TASKS, still, CPU)
    assert score.mean == 0.5  # of an encoder that says the same of every cloud
    with pytest.raises(TransferRefusedError):
        few_shot_tuned(POINTNEXT, state, clouds, TASKS, still, CPU)


def test_none_are_tuned_unless_it_is_asked_for(clouds: Clouds) -> None:
    assert few_shot_tuned(DGCNN, None, clouds, TASKS, TunedConfig(), CPU) == []


def test_too_few_clouds_are_told(clouds: Clouds) -> None:
    many = dataclasses.replace(TASKS, queries=5)
    with pytest.raises(ProbeError, match="queries=5: a class has 4 clouds"):
        few_shot_tuned(DGCNN, None, clouds, many, TUNED, CPU)


def test_a_task_is_the_same_whenever_it_is_drawn(clouds: Clouds) -> None:
    labels = clouds.dataset.labels
    drawn = [
        draw_episode(labels[clouds.train], labels[clouds.test], TASKS, 2, 5, trial)
        for trial in (0, 1, 0)
    ]
    np.testing.assert_array_equal(drawn[0].support, drawn[2].support)
    np.testing.assert_array_equal(drawn[0].queries, drawn[2].queries)
    assert not np.array_equal(drawn[0].support, drawn[1].support)
    of_support = labels[clouds.train][drawn[0].support]
    assert sorted(of_support.tolist()) == sorted(drawn[0].classes * 5)


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tuned\.batch=1"):
        TunedConfig(batch=1)
