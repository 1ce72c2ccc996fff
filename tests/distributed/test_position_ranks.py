"""Ranks that see different folders must not train on: real processes over gloo."""

from pathlib import Path

import pytest
import torch
from rank_processes import start_ranks
from torch import distributed

from picpoint.data.config import DataConfig
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoderConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.pretrain import pretrain
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig

CPU = torch.device("cpu")


def _config(shards: str) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(shards, num_points=48, correspondences=8),
        point_encoder=DgcnnConfig(widths=(8,), pooled_width=8, num_neighbours=4),
        image_encoder=ImageEncoderConfig(input_px=64, precision="float32"),
        heads=ProjectionConfig(latent_width=8, hidden_width=8, pose_width=4),
        loss=LossConfig(),
        optim=OptimConfig(),
        global_batch=4,
        ghost_batch=2,
        precision="fp32",
        checkpoint_every=1,
        log_every=1,
    )


def _rank_main(rank: int, shards: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    told = "nothing was refused"
    try:
        next(pretrain(_config(shards), Path(folder) / f"of_rank{rank}", CPU))
    except CheckpointError as error:
        told = str(error)
    Path(folder, f"rank{rank}.txt").write_text(told)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_that_resume_from_different_positions_are_stopped(
    shard_set: Path, tmp_path: Path
) -> None:
    """Rank 0 finds a checkpoint; the folder of rank 1 is its own and empty."""
    reports = pretrain(_config(str(shard_set)), tmp_path / "of_rank0", CPU, resume="never")
    next(reports)
    reports.close()
    start_ranks(_rank_main, (str(shard_set), str(tmp_path)), 2)
    for rank in (0, 1):
        told = (tmp_path / f"rank{rank}.txt").read_text()
        assert "0 and 4 samples" in told
        assert "shared" in told
