import pytest
import torch
from torch import Tensor, nn

from picpoint.ops.ghost_norm import GhostBatchNorm, moments_from_sums, update_running_statistics


def _pair_of_norms(channels: int, ghost_batch: int) -> tuple[GhostBatchNorm, nn.BatchNorm1d]:
    """Ours and torch's, in float64, with the same weights, some of them negative."""
    generator = torch.Generator().manual_seed(0)
    ours = GhostBatchNorm(channels, ghost_batch).double()
    theirs = nn.BatchNorm1d(channels).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            values = torch.randn(channels, generator=generator, dtype=torch.float64)
            getattr(ours, name).copy_(values)
            getattr(theirs, name).copy_(values)
    return ours, theirs


def _randn(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 5), (6, 2, 3, 5)])
def test_each_ghost_is_normalised_as_torch_batch_norm_does(shape):
    ours, theirs = _pair_of_norms(5, ghost_batch=2)
    x, upstream = _randn(*shape, seed=1), _randn(*shape, seed=2)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y_ours = ours(x_ours)
    y_theirs = torch.cat([theirs(part.reshape(-1, 5)) for part in x_theirs.split(2)])
    torch.testing.assert_close(y_ours, y_theirs.reshape(shape))
    y_ours.backward(upstream)
    y_theirs.backward(upstream.reshape(-1, 5))
    for mine, oracle in (
        (x_ours.grad, x_theirs.grad),
        (ours.weight.grad, theirs.weight.grad),
        (ours.bias.grad, theirs.bias.grad),
    ):
        torch.testing.assert_close(mine, oracle)


def test_a_step_of_one_ghost_moves_running_statistics_as_torch_does_and_evaluation_uses_them():
    ours, theirs = _pair_of_norms(5, ghost_batch=4)
    for step in range(3):
        x = 2 + 3 * _randn(4, 7, 5, seed=step)
        ours(x)
        theirs(x.reshape(-1, 5))
        update_running_statistics(ours)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = _randn(3, 7, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.reshape(-1, 5)).reshape(x.shape))


def test_running_statistics_average_all_ghosts_however_the_step_is_cut():
    x = 2 + 3 * _randn(8, 7, 5)
    whole, cut = GhostBatchNorm(5, 2).double(), GhostBatchNorm(5, 2).double()
    whole(x)
    for part in x.split(4):
        cut(part)
    update_running_statistics(nn.Sequential(nn.Identity(), whole))
    update_running_statistics(cut)
    torch.testing.assert_close(cut.running_mean, whole.running_mean)
    torch.testing.assert_close(cut.running_var, whole.running_var)
    variance = torch.stack([part.reshape(-1, 5).var(dim=0) for part in x.split(2)]).mean(dim=0)
    torch.testing.assert_close(whole.running_var, 0.9 + 0.1 * variance)


def test_an_update_without_a_forward_changes_nothing():
    norm = GhostBatchNorm(5, 2)
    update_running_statistics(norm)
    assert torch.equal(norm.running_mean, torch.zeros(5))
    assert torch.equal(norm.running_var, torch.ones(5))


@pytest.mark.parametrize("poison", [0.0, 1e30, float("nan"), float("inf")])
def test_masked_entries_never_enter_a_statistic_or_a_gradient(poison):
    mask = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) > 0.4
    clean = _randn(4, 7, 5)
    masked, dense = GhostBatchNorm(5, 4).double(), GhostBatchNorm(5, 1).double()
    x = torch.where(mask[..., None], clean, poison).requires_grad_()
    x_dense = clean[mask][None].clone().requires_grad_()
    upstream = _randn(int(mask.sum()), 5, seed=4)
    y, y_dense = masked(x, mask), dense(x_dense)
    torch.testing.assert_close(y[mask], y_dense[0])
    assert y.isfinite().all()
    y[mask].backward(upstream)
    y_dense[0].backward(upstream)
    assert x.grad is not None
    assert x_dense.grad is not None
    torch.testing.assert_close(x.grad[mask], x_dense.grad[0])
    assert (x.grad[~mask] == 0).all()
    torch.testing.assert_close(masked.weight.grad, dense.weight.grad)
    for norm in (masked, dense):
        update_running_statistics(norm)
    torch.testing.assert_close(masked.running_var, dense.running_var)


def test_a_ghost_without_entries_gives_no_nan_and_no_share_of_the_running_statistics():
    x = _randn(4, 7, 5).requires_grad_()
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[2:] = False
    norm, only_first = GhostBatchNorm(5, 2).double(), GhostBatchNorm(5, 2).double()
    y = norm(x, mask)
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    only_first(x.detach()[:2])
    for module in (norm, only_first):
        update_running_statistics(module)
    torch.testing.assert_close(norm.running_mean, only_first.running_mean)
    torch.testing.assert_close(norm.running_var, only_first.running_var)


def test_moments_from_sums_are_those_of_the_entries_and_carry_gradients():
    x = _randn(2, 9, 3).requires_grad_()
    norm, fused = GhostBatchNorm(3, 1).double(), GhostBatchNorm(3, 1).double()
    moments = moments_from_sums(x.sum(1), x.square().sum(1), torch.tensor([9.0, 9.0]))
    scale, shift = fused.affine(moments)
    y = x * scale[:, None] + shift[:, None]
    torch.testing.assert_close(y, norm(x))
    upstream = _randn(2, 9, 3, seed=5)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, upstream)[0], torch.autograd.grad(norm(x), x, upstream)[0]
    )


def test_statistics_of_bfloat16_are_taken_in_float32():
    x = (100 + _randn(2, 4096, 3, dtype=torch.float32)).bfloat16()
    norm = GhostBatchNorm(3, 2)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    update_running_statistics(norm)
    exact = x.double().reshape(-1, 3)
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        norm.running_var.double(), 0.9 + 0.1 * exact.var(0), rtol=1e-5, atol=0
    )


def test_a_batch_that_ghosts_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="6 shapes in ghost batches of 4"):
        GhostBatchNorm(5, 4)(_randn(6, 5))


def test_a_ghost_of_one_entry_is_refused_in_training_as_torch_does():
    norm, x = GhostBatchNorm(5, 1), torch.randn(3, 5)
    with pytest.raises(ValueError, match="ghost_batch=1 where a shape is one entry"):
        norm(x)
    assert norm(torch.randn(3, 2, 5)).isfinite().all()
    torch.testing.assert_close(norm.eval()(x), x, rtol=1e-5, atol=0)


def test_only_the_running_statistics_are_saved():
    norm = GhostBatchNorm(5, 2)
    norm(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
