import pytest
import torch
from torch.nn import functional

from picpoint.batch import Embeddings
from picpoint.train.collapse import measure_embeddings

B, V, D = 12, 3, 6


def make_embeddings(points: torch.Tensor, pictures: torch.Tensor, valid=None) -> Embeddings:
    none = torch.zeros(len(points), pictures.shape[1], 0)
    return Embeddings(
        point_pooled=points,
        picture_pooled=pictures,
        point_local=none[..., None].expand(-1, -1, -1, D),
        picture_local=none[..., None].expand(-1, -1, -1, D),
        local_mask=none.bool(),
        local_cell=none.long(),
        valid=torch.ones(len(points), dtype=torch.bool) if valid is None else valid,
    )


def random_units(*shape: int) -> torch.Tensor:
    noise = torch.randn(*shape, D, generator=torch.Generator().manual_seed(0))
    return functional.normalize(noise, dim=-1)


def test_one_point_is_a_collapse() -> None:
    same = torch.ones(B, D) / D**0.5
    measured = measure_embeddings(make_embeddings(same, same[:, None].expand(-1, V, -1)), (B,))
    assert measured.alignment == pytest.approx(0, abs=1e-6)
    assert measured.uniformity == pytest.approx(0, abs=1e-5)
    assert measured.effective_rank == pytest.approx(1, abs=1e-2)
    assert measured.is_collapse


def test_spread_embeddings_are_none_and_are_compared_with_every_view() -> None:
    points, pictures = random_units(B), random_units(B, V)
    measured = measure_embeddings(make_embeddings(points, pictures), (B,))
    assert not measured.is_collapse
    assert measured.effective_rank > 4
    expected = (points[:, None] - pictures).square().sum(dim=-1).mean()
    assert measured.alignment == pytest.approx(expected.item())


def test_few_shapes_are_never_called_a_collapse() -> None:
    same = torch.ones(4, D) / D**0.5
    assert not measure_embeddings(make_embeddings(same, same[:, None]), (4,)).is_collapse


def test_slots_that_hold_no_sample_do_not_count() -> None:
    points, pictures = random_units(B), random_units(B, V)
    valid = torch.arange(B) < 9
    dirty_points = torch.where(valid[:, None], points, torch.nan)
    dirty_pictures = torch.where(valid[:, None, None], pictures, torch.nan)
    dirty = measure_embeddings(make_embeddings(dirty_points, dirty_pictures, valid), (B,))
    assert dirty == measure_embeddings(make_embeddings(points[:9], pictures[:9]), (9,))


def test_a_batch_without_a_sample_has_finite_figures() -> None:
    none = torch.zeros(2, dtype=torch.bool)
    measured = measure_embeddings(make_embeddings(random_units(2), random_units(2, V), none), (2,))
    assert (measured.num_shapes, measured.alignment, measured.uniformity) == (0, 0, 0)
    assert not measured.is_collapse
