"""A pre-training run small enough to be repeated in a test."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from picpoint.data.config import DataConfig
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoderConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.train.log import StepReport
from picpoint.train.pretrain import pretrain
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig

Run = Callable[..., list[StepReport]]


@pytest.fixture
def tiny_config(shard_set: Path) -> PretrainConfig:
    """Two steps an epoch, four shapes a step."""
    return PretrainConfig(
        data=DataConfig(str(shard_set), num_points=48, correspondences=8),
        point_encoder=DgcnnConfig(widths=(8, 8, 8, 16), pooled_width=16, num_neighbours=4),
        image_encoder=ImageEncoderConfig(input_px=64, precision="float32"),
        heads=ProjectionConfig(latent_width=16, hidden_width=16, pose_width=8),
        loss=LossConfig(),
        optim=OptimConfig(lr=1e-2),
        global_batch=4,
        ghost_batch=2,
        epochs=4,
        precision="fp32",
        log_every=1,
        checkpoint_every=3,
    )


@pytest.fixture
def train(tiny_config: PretrainConfig, tmp_path: Path) -> Run:
    def run(
        folder: str = "run", resume: str = "never", steps: int | None = None, **changes: object
    ) -> list[StepReport]:
        """Run to the end, or abandon the run after some steps as a kill would."""
        config = dataclasses.replace(tiny_config, **changes)
        reports = pretrain(config, tmp_path / folder, torch.device("cpu"), resume)
        if steps is None:
            return list(reports)
        seen = [next(reports) for _ in range(steps)]
        reports.close()
        return seen

    return run
