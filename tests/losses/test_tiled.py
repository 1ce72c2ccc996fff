import pytest
import torch
from torch.nn import functional

from picpoint.losses.tiled import contrast_rows


def plain(rows, candidates, own, allowed):
    """The whole matrix at once."""
    logits = rows @ candidates.T
    is_own = functional.one_hot(own, len(candidates)).bool()
    loss = functional.cross_entropy(
        logits.masked_fill(~(allowed | is_own), -torch.inf), own, reduction="none"
    )
    rival = logits.masked_fill(~allowed | is_own, -torch.inf).amax(dim=1)
    return loss, rival < logits[torch.arange(len(rows)), own]


def unit_rows(count, width, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator, dtype=dtype)
    return functional.normalize(rows, dim=1)


@pytest.mark.parametrize("tile", [3, 7, 64, 1000])
@pytest.mark.parametrize("start", [0, 23])
def test_tiles_of_any_size_give_the_plain_loss_finds_and_gradients(tile, start):
    """The rows are a rank's; its partners begin at `start` among all candidates."""
    candidates = unit_rows(64, 5, 0, torch.float64).requires_grad_()
    rows = (unit_rows(41, 5, 1, torch.float64) * 10).requires_grad_()
    own, allowed = start + torch.arange(41), torch.arange(64) % 5 != 0
    weights = torch.linspace(-1, 1, 41, dtype=torch.float64)
    results = []
    for contrast in (plain, lambda *a: contrast_rows(*a, tile=tile)):
        loss, found = contrast(rows, candidates, own, allowed)
        grads = torch.autograd.grad((weights * loss).sum(), (rows, candidates))
        results.append((loss, found, *grads))
    assert results[0][1].equal(results[1][1])
    assert results[0][1].any()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [512, 4096])
def test_float32_agrees_with_the_plain_form_to_1e_5(count):
    candidates = unit_rows(count, 32, 0, torch.float32).requires_grad_()
    rows = (functional.normalize(candidates.detach() + 0.1, dim=1) * 10).requires_grad_()
    own, allowed = torch.arange(count), torch.ones(count, dtype=torch.bool)
    results = []
    for contrast in (plain, contrast_rows):
        loss, _ = contrast(rows, candidates, own, allowed)
        results.append((loss, *torch.autograd.grad(loss.sum(), (rows, candidates))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_row_without_rivals_has_no_loss_and_no_gradient():
    rows = unit_rows(3, 4, 0, torch.float32).requires_grad_()
    candidates = unit_rows(3, 4, 1, torch.float32).requires_grad_()
    nobody = torch.zeros(3, dtype=torch.bool)
    loss, found = contrast_rows(rows, candidates, torch.arange(3), nobody)
    gradients = torch.autograd.grad(loss.sum(), (rows, candidates))
    assert loss.tolist() == [0, 0, 0]
    assert found.all()
    assert all(gradient.eq(0).all() for gradient in gradients)


def test_memory_is_linear_in_the_number_of_rows():
    """No tensor of more than a tile's numbers, or of the rows', is ever made."""
    most = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                most = max(most, result.numel())
            return result

    rows, candidates = (unit_rows(600, 4, seed, torch.float32).requires_grad_() for seed in (0, 1))
    own, allowed = torch.arange(600), torch.ones(600, dtype=torch.bool)
    with Watch():
        loss, _ = contrast_rows(rows, candidates, own, allowed, tile=50)
        loss.sum().backward()
    assert most == 50 * 50
    assert rows.grad is not None
