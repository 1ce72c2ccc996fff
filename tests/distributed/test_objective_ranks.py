"""The objective of R ranks is that of one rank on the joined batch, in value and in gradient.

Real processes over gloo, in float64, with a whole model under DistributedDataParallel. They are
started once for all numbers of ranks and scenarios, because starting them takes longest.
"""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from rank_processes import start_ranks
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from picpoint.batch import ImageFeatures, PairBatch, take_shapes
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.gather import ddp_loss, gather_rows, global_sum
from picpoint.losses.info_nce import LossConfig, pretraining_loss
from picpoint.model import ModelConfig, PretrainModel
from picpoint.ops.ghost_norm import update_running_statistics

B, V, N, K, C, SIZE_PX = 8, 2, 32, 5, 6, 32
GHOST = 2
# Shapes of each rank; the three have 2, 1 and 1 ghost batches.
SHARES = {1: (8,), 2: (4, 4), 3: (4, 2, 2)}
SCENARIOS = ("uneven_visible", "empty_ranks", "invalid_shapes", "pointnext")
LOSS = LossConfig(local_weight=0.7, temperature=0.2)


def make_global_batch(scenario: str) -> tuple[PairBatch, ImageFeatures]:
    """Eight shapes in float64, the same in every process."""
    generator = torch.Generator().manual_seed(SCENARIOS.index(scenario))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    visible_share = torch.linspace(0.1, 1, B)[:, None, None]
    mask = torch.rand(B, V, K, generator=generator) < visible_share
    valid = torch.ones(B, dtype=torch.bool)
    match scenario:
        case "empty_ranks":
            mask[4:] = False
        case "invalid_shapes" | "pointnext":
            valid[[3, 6, 7]] = False
    batch = PairBatch(
        keys=tuple(map(str, range(B))),
        points=normal(B, N, 3),
        pictures=torch.zeros(B, V, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8),
        view_matrices=normal(B, V, 4, 4),
        projection_matrices=normal(B, V, 4, 4),
        point_index=torch.randint(0, N, (B, V, K), generator=generator),
        pixels=torch.rand(B, V, K, 2, generator=generator, dtype=torch.float64) * SIZE_PX,
        correspondence_mask=mask,
        valid=valid,
        size_px=SIZE_PX,
    )
    return batch, ImageFeatures(local=normal(B, V, C, 4, 4), pooled=normal(B, V, C))


def make_model(scenario: str) -> PretrainModel:
    torch.manual_seed(0)
    dgcnn = DgcnnConfig(widths=(8, 8), pooled_width=8, num_neighbours=4)
    pointnext = PointNextConfig(
        width=4, strides=(1, 2), blocks=(1, 0), radius=1.0, num_neighbours=4, local_stage=1
    )
    config = ModelConfig(
        point_encoder=pointnext if scenario == "pointnext" else dgcnn,
        heads=ProjectionConfig(latent_width=8, hidden_width=8, pose_width=4),
        ghost_batch=GHOST,
    )
    return PretrainModel(config, C, C).double()


def run_scenario(scenario: str, rank: int, num_ranks: int) -> dict[str, torch.Tensor]:
    """Take a rank's part in one step; returns summed loss terms, gradients and statistics."""
    shares = SHARES[num_ranks]
    start = sum(shares[:rank])
    rows = slice(start, start + shares[rank])
    batch, image = make_global_batch(scenario)
    batch, image = take_shapes(batch, rows), ImageFeatures(image.local[rows], image.pooled[rows])
    model = make_model(scenario)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if num_ranks > 1 else model
    terms = pretraining_loss(wrapped(batch, image), LOSS, shares)
    ddp_loss(terms.total).backward()
    update_running_statistics(model)
    summed = {
        f"sum of {f.name}": global_sum(getattr(terms, f.name)) for f in dataclasses.fields(terms)
    }
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return summed | gradients | dict(model.named_buffers())


def run_gather(rank: int, num_ranks: int) -> dict[str, torch.Tensor]:
    """Gather rows that tell their rank, and weigh them differently on each rank."""
    shares = SHARES[num_ranks]
    rows = torch.full((shares[rank], 2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    gathered = gather_rows(rows, shares)
    weights = (rank + 1) * torch.arange(len(gathered), dtype=torch.float64)
    (weights[:, None, None] * gathered).sum().backward()
    assert rows.grad is not None
    return {"gathered": gathered.detach(), "gradient": rows.grad}


def run_rank(rank: int, folder: str) -> None:
    """Be a rank of three, then of two, and leave what was found in files."""
    torch.set_num_threads(1)
    for num_ranks in (3, 2):
        if rank < num_ranks:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/rendezvous{num_ranks}",
                rank=rank,
                world_size=num_ranks,
                timeout=timedelta(seconds=180),
            )
            results = {name: run_scenario(name, rank, num_ranks) for name in SCENARIOS}
            results["gather"] = run_gather(rank, num_ranks)
            torch.save(results, Path(folder) / f"rank{rank}of{num_ranks}.pt")
            distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(run_rank, (str(folder),), 3)
    return folder


@pytest.fixture(params=[2, 3], ids="{}_ranks".format)
def results_of_ranks(request, results_folder):
    files = [results_folder / f"rank{rank}of{request.param}.pt" for rank in range(request.param)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_give_the_loss_gradients_and_statistics_of_one_rank(results_of_ranks, scenario):
    expected = run_scenario(scenario, rank=0, num_ranks=1)
    assert expected["sum of local"] > 0
    assert expected["sum of pooled"] > 0
    assert all(value.isfinite().all() for value in expected.values())
    for rank, results in enumerate(results_of_ranks):
        assert results[scenario].keys() == expected.keys()
        for name, value in expected.items():
            # float64 sums in another order; a wrong factor or a missing negative is far above.
            difference = (results[scenario][name] - value).abs().max()
            assert difference < 1e-6 * max(1, value.abs().max()), (rank, name, difference)


def test_gathered_rows_stand_in_rank_order_and_their_gradient_is_summed(results_of_ranks):
    num_ranks = len(results_of_ranks)
    shares = SHARES[num_ranks]
    order = [float(rank) for rank in range(num_ranks) for _ in range(shares[rank])]
    factor = sum(range(1, num_ranks + 1))
    for rank, results in enumerate(results_of_ranks):
        assert results["gather"]["gathered"][:, 0, 0].tolist() == order
        start = sum(shares[:rank])
        expected = [factor * row for row in range(start, start + shares[rank])]
        assert results["gather"]["gradient"][:, 1, 2].tolist() == expected
