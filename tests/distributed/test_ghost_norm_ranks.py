from pathlib import Path

import torch
from rank_processes import start_ranks
from torch import Tensor, distributed, nn

from picpoint.ops.ghost_norm import GhostBatchNorm, update_running_statistics

RANKS, STEPS, SHAPES, CHANNELS, GHOST = 2, 2, 8, 5, 2


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        GhostBatchNorm(CHANNELS, GHOST), nn.Linear(CHANNELS, 3), GhostBatchNorm(3, GHOST)
    )


def _clouds(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return 1 + 2 * torch.randn(SHAPES, 6, CHANNELS, generator=generator)


def _train(model: nn.Module, shapes: slice) -> Tensor:
    """Forward this rank's shapes for some steps; give its last output."""
    outputs = torch.empty(0)
    for step in range(STEPS):
        outputs = model(_clouds(step)[shapes])
        update_running_statistics(model)
    return outputs.detach()


def _rank_main(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    model = _model()
    share = SHAPES // RANKS
    outputs = _train(model, slice(rank * share, (rank + 1) * share))
    torch.save({"outputs": outputs, "state": model.state_dict()}, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_half_the_ghosts_each_equal_one_rank(tmp_path: Path):
    start_ranks(_rank_main, (str(tmp_path),), RANKS)
    model = _model()
    outputs = _train(model, slice(0, SHAPES))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    torch.testing.assert_close(torch.cat([rank["outputs"] for rank in ranks]), outputs)
    for rank in ranks:
        torch.testing.assert_close(rank["state"], model.state_dict())
    assert ranks[0]["state"]["0.running_mean"].equal(ranks[1]["state"]["0.running_mean"])
