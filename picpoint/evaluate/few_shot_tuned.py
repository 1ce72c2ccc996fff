"""How much does a network learn from a few clouds of a few classes, encoder and all?

The tasks are those of the linear few-shot probe (picpoint/evaluate/frozen.py), cloud for cloud.

Source: Point-MAE (arXiv:2203.06604), cfgs/fewshot.yaml of Pang-Yatian/Point-MAE: AdamW at 5e-4,
weight decay 0.05, cosine after 10 of 150 epochs of warm-up, batches of 32, gradients of at most 10.
There the best epoch counts; here the last.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import CloudBatch, move_batch
from picpoint.data.clouds import (
    CloudDataConfig,
    CloudItem,
    CloudView,
    choose_points,
    collate_clouds,
    evaluation_clouds,
    make_item,
)
from picpoint.data.dataset import Dataset
from picpoint.evaluate.frozen import Episode, FewShotScore, FrozenConfig, draw_episode, score_of
from picpoint.model import PointEncoderConfig
from picpoint.ops.dropout import place_dropout
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.task_model import ClassificationNetwork, needs_farthest_first
from picpoint.train.state import OptimConfig, TrainState, learning_rate, new_state
from picpoint.weights.transfer import transfer_weights
from shards.clouds import Cloud
from shards.member_reader import Request


@dataclass(frozen=True, slots=True)
class TunedConfig:
    """How networks of few-shot tasks are fine-tuned.

    Attributes:
        epochs: passes over the labelled clouds of a task; 0 for no fine-tuning. Published: 150.
        batch: most clouds of a step; those of an epoch that fill no batch are left out of it.
        optim: optimiser.
        clip_grad_norm: longest gradient; 0 leaves it.
    """

    epochs: int = 0
    batch: int = 32
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=5e-4, weight_decay=0.05, warmup_fraction=10 / 150)
    )
    clip_grad_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 2 or self.clip_grad_norm < 0:
            raise ValueError(
                f"tuned.epochs={self.epochs}, tuned.batch={self.batch}, tuned.clip_grad_norm="
                f"{self.clip_grad_norm}: must be at least 0, 2 and 0"
            )


@dataclass(frozen=True, slots=True)
class Clouds:
    """Where the clouds of tasks come from.

    Attributes:
        dataset: all of them.
        train: manifest index of those that tasks are learnt from.
        test: of those that are named.
        config: how they are read, and moved in training.
    """

    dataset: Dataset
    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]
    config: CloudDataConfig


def few_shot_tuned(
    encoder: PointEncoderConfig,
    state: Mapping[str, Tensor] | None,
    clouds: Clouds,
    frozen: FrozenConfig,
    tuned: TunedConfig,
    device: torch.device,
    progress: Callable[[str], None] = lambda told: None,
) -> list[FewShotScore]:
    """Fine-tune a network for each few-shot task, and name the task's queries with it.

    Args:
        encoder: shape of the point encoder.
        state: its pre-trained weights; None begins from scratch.
        clouds: to learn from and to name.
        frozen: which tasks.
        tuned: how.
        device: where it computes.
        progress: is told which task is at hand.

    Raises:
        ProbeError: there are fewer classes or clouds than a task takes.
        DatasetError, ShardError: the clouds cannot be read.
    """
    labels = clouds.dataset.labels
    scores: list[FewShotScore] = []
    for ways in frozen.ways if frozen.trials and tuned.epochs else ():
        for shots in frozen.shots:
            found = list[float]()
            for trial in range(frozen.trials):
                progress(f"{ways}-way {shots}-shot, task {trial + 1} of {frozen.trials}")
                of_test = labels[clouds.test]
                task = draw_episode(labels[clouds.train], of_test, frozen, ways, shots, trial)
                network = _tune(encoder, state, clouds, task, tuned, trial, device)
                found.append(_accuracy(network, clouds, task, tuned, device))
            scores.append(score_of(ways, shots, found))
    return scores


def _tune(
    encoder: PointEncoderConfig,
    weights: Mapping[str, Tensor] | None,
    clouds: Clouds,
    task: Episode,
    tuned: TunedConfig,
    seed: int,
    device: torch.device,
) -> ClassificationNetwork:
    rows = clouds.train[task.support]
    per_epoch = math.ceil(len(rows) / tuned.batch)
    batch_size = len(rows) // per_epoch

    def build() -> ClassificationNetwork:
        network = ClassificationNetwork(encoder, len(task.classes), batch_size, False)
        if weights is not None:
            transfer_weights(network.trunk, weights)
        return network

    state = new_state(build, tuned.optim, seed, device)
    requests = map(Request, rows.tolist())
    kept = [cloud for cloud in clouds.dataset.reader.stream(requests, 8) if cloud]
    for epoch in range(tuned.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        for number in range(per_epoch):
            chosen = order[number * batch_size : (number + 1) * batch_size].tolist()
            batch = _batch(clouds, encoder, [(int(rows[i]), kept[i]) for i in chosen], seed, epoch)
            step = epoch * per_epoch + number
            _step(state, batch, task, tuned, seed, step, tuned.epochs * per_epoch, device)
    return state.model


def _batch(
    clouds: Clouds,
    encoder: PointEncoderConfig,
    chosen: list[tuple[int, Cloud]],
    seed: int,
    epoch: int,
) -> CloudBatch:
    config = clouds.config
    view = CloudView(config.num_points, needs_farthest_first(encoder))

    def item(row: int, cloud: Cloud) -> CloudItem:
        generator = np.random.default_rng([seed, epoch, row])
        points = choose_points(cloud, view, config.subset, generator)
        label = int(clouds.dataset.labels[row])
        return make_item(cloud, label, points, config, view, config.augment, generator)

    return collate_clouds([item(row, cloud) for row, cloud in chosen])


def _step(
    state: TrainState[ClassificationNetwork],
    batch: CloudBatch,
    task: Episode,
    tuned: TunedConfig,
    seed: int,
    step: int,
    total_steps: int,
    device: torch.device,
) -> None:
    """Make one update."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(tuned.optim, step / total_steps)
    state.optimizer.zero_grad(set_to_none=True)
    state.model.train()
    place_dropout(state.model, seed, step, 0)
    batch = move_batch(batch, device)
    functional.cross_entropy(state.model(batch), _places(batch.labels, task)).backward()
    if tuned.clip_grad_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), tuned.clip_grad_norm)
    state.optimizer.step()
    update_running_statistics(state.model)


@torch.no_grad()
def _accuracy(
    network: ClassificationNetwork,
    clouds: Clouds,
    task: Episode,
    tuned: TunedConfig,
    device: torch.device,
) -> float:
    network.eval()
    config, right = clouds.config, 0
    view = CloudView(config.num_points, needs_farthest_first(network.encoder.config))
    rows = clouds.test[task.queries]
    for batch in evaluation_clouds(clouds.dataset, rows, tuned.batch, config, view):
        batch = move_batch(batch, device)
        right += int((network(batch).argmax(-1) == _places(batch.labels, task)).sum())
    return right / len(rows)


def _places(labels: Int64[Tensor, " B"], task: Episode) -> Int64[Tensor, " B"]:
    """Number the classes of a task from 0."""
    classes = torch.tensor(task.classes, device=labels.device)
    return (labels[:, None] == classes).int().argmax(-1)
