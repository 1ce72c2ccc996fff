"""`picpoint probe`: linear SVM, k-NN and few-shot on frozen features of labelled clouds."""

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from cluster.compose import ConfigError
from cluster.progress import ProgressLine
from cluster.record import keep_or_start, plain
from picpoint.data.clouds import CloudDataConfig
from picpoint.data.dataset import Dataset, open_dataset
from picpoint.data.dataset_split import Split, check_sizes, split_clouds
from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.evaluate.cloud_features import calibrate_on_clouds, encode_clouds
from picpoint.evaluate.few_shot_tuned import Clouds, TunedConfig, few_shot_tuned
from picpoint.evaluate.frozen import FrozenConfig, Solver, draw_episodes
from picpoint.evaluate.frozen_result import (
    FROZEN_FILE,
    FrozenResult,
    FrozenScores,
    format_frozen,
    read_frozen,
    score_features,
    write_frozen,
)
from picpoint.model import build_point_encoder, check_num_points
from picpoint.train.pretrained import PretrainedEncoder, read_pretrained
from picpoint.weights.cost import encoder_cost
from shards.cloud_sets import CloudReader

# Shapes that share BatchNorm statistics where those of an untrained encoder are taken.
_GHOST_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeJob:
    """Which encoder is probed, and on what.

    Attributes:
        weights: pre-trained encoder: a folder, a name on the Hub or a run.
        out: folder that the result goes to.
        data: labelled clouds; `augment` and `subset` are of `tuned` alone.
        frozen: how the features are probed.
        tuned: how whole networks are fine-tuned on the few-shot tasks, from the encoder and from
            scratch (`random_init`).
        solvers: of the linear SVM.
        random_init: probe the same network untrained, too.
        statistics: of BatchNorm, of both networks alike. `calibrated` takes them anew from the
            training clouds, whose labels are not looked at: the untrained network has none of its
            own, and those of a run are of other clouds, moved ones, so that this compares weights
            with weights, as picpoint evaluate does. `stored` leaves them as they are, as published
            figures have it; the untrained network then normalises by mean 0 and variance 1.
        eval_batch: clouds encoded at once.
        seed: of the untrained network's weights.
    """

    weights: str
    out: str
    data: CloudDataConfig
    frozen: FrozenConfig = field(default_factory=FrozenConfig)
    tuned: TunedConfig = field(default_factory=TunedConfig)
    solvers: tuple[Solver, ...] = ("LinearSVC", "SVC")
    random_init: bool = True
    statistics: Literal["calibrated", "stored"] = "calibrated"
    eval_batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.eval_batch < 1:
            raise ValueError(f"eval_batch={self.eval_batch}: must be at least 1")


def describe(job: ProbeJob) -> list[str]:
    """Say what would be read and written."""
    _, split = _open(job)
    return [
        f"read   {len(split.train)} clouds to fit and {len(split.evaluated)} to name "
        f"({job.data.evaluate_on}) from {job.data.shards}; the encoder of {job.weights}",
        f"write  {Path(job.out) / FROZEN_FILE}",
    ]


def run(job: ProbeJob) -> None:
    """Probe an encoder, write the result and print its table.

    Raises:
        ConfigError: the encoder takes larger clouds.
        DatasetError, ShardError, ProbeError: the clouds do not suffice or cannot be read.
        EncoderFileError, CheckpointError: there is no encoder.
    """
    dataset, split = _open(job)
    # Before anything is written: a record of this job would stand in the way of its mending.
    draw_episodes(dataset.labels[split.train], dataset.labels[split.evaluated], job.frozen)
    pretrained = read_pretrained(job.weights)
    try:
        check_num_points(pretrained.config, job.data.num_points)
    except ValueError as error:
        raise ConfigError(f"weights={job.weights}: {error}") from error
    inputs = f"{dataset.reader.manifest.digest} {pretrained.sha256}"
    stage = keep_or_start(job.out, "probe", job, inputs, moot=("out", "eval_batch", "weights"))
    path = Path(job.out) / FROZEN_FILE
    if not stage.kept:
        write_frozen(_probe(job, dataset, split, pretrained), path)
        stage.finish()
    print(format_frozen(read_frozen(path)))


def _open(job: ProbeJob) -> tuple[Dataset, Split]:
    dataset = open_dataset(CloudReader(job.data.shards, cache=job.data.cache))
    split = split_clouds(job.data, dataset)
    check_sizes(job.data, dataset, split)
    return dataset, split


def _probe(
    job: ProbeJob, dataset: Dataset, split: Split, pretrained: PretrainedEncoder
) -> FrozenResult:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = build_point_encoder(pretrained.config, _GHOST_BATCH)
    encoder.load_state_dict(pretrained.state)
    with ProgressLine("probe") as progress:
        progress.show("the pre-trained encoder")
        scores = _score(job, dataset, split, encoder, device)
        tuned = functools.partial(
            few_shot_tuned,
            pretrained.config,
            clouds=Clouds(dataset, split.train, split.evaluated, job.data),
            frozen=job.frozen,
            tuned=job.tuned,
            device=device,
            progress=progress.show,
        )
        scores = dataclasses.replace(scores, few_shot_tuned=tuple(tuned(state=pretrained.state)))
        random_scores = None
        if job.random_init:
            progress.show("the same encoder untrained")
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(job.seed)
                untrained = build_point_encoder(pretrained.config, _GHOST_BATCH)
            random_scores = dataclasses.replace(
                _score(job, dataset, split, untrained, device),
                few_shot_tuned=tuple(tuned(state=None)),
            )
    cost = encoder_cost(pretrained.config, job.data.num_points)
    return FrozenResult(
        dataset=dataset.info.name,
        dataset_digest=dataset.reader.manifest.digest,
        evaluated_on=job.data.evaluated_on,
        num_train=len(split.train),
        num_evaluated=len(split.evaluated),
        weights=pretrained.place,
        weights_sha256=pretrained.sha256,
        num_points=job.data.num_points,
        statistics=job.statistics,
        pretrained=scores,
        random_init=random_scores,
        settings=plain(job),
        encoder=pretrained.config.name,
        parameters=cost.parameters,
        usual_flops=cost.usual_flops,
    )


def _score(
    job: ProbeJob,
    dataset: Dataset,
    split: Split,
    encoder: Dgcnn | PointNext,
    device: torch.device,
) -> FrozenScores:
    """Probe one encoder, with the statistics that the job asks for."""
    if job.statistics == "calibrated":
        calibrate_on_clouds(encoder, dataset, split.train, job.data, job.seed, device)
    train, test = (
        encode_clouds(encoder, dataset, rows, job.data, job.eval_batch, device)
        for rows in (split.train, split.evaluated)
    )
    return score_features(train, test, job.frozen, job.solvers)
