import pytest
import torch
from torch import Tensor

from picpoint.ops.normalise import (
    normalise,
    normalise_plain,
    scale_and_shift,
    scale_and_shift_plain,
)

SLOPES = (1.0, 0.2, 0.0)


def _randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalise_equals_its_plain_form_in_value_and_gradient(dtype, masked, slope):
    x = (2 + 3 * _randn(3, 70, 5, seed=0)).to(dtype).requires_grad_()
    weight, bias = (_randn(5, seed=seed).to(dtype).requires_grad_() for seed in (1, 2))
    mask = _randn(3, 70, seed=3) > 0 if masked else None
    upstream = _randn(3, 70, 5, seed=4).to(dtype)
    results = []
    for form in (normalise, normalise_plain):
        y, moments = form(x, weight, bias, mask, 1e-5, slope)
        gradients = torch.autograd.grad(y, (x, weight, bias), upstream)
        results.append((y, moments, *gradients))
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("slope", SLOPES)
def test_scale_and_shift_equals_its_plain_form_in_value_and_gradient(slope):
    x, upstream = _randn(3, 70, 5, seed=0).requires_grad_(), _randn(3, 70, 5, seed=1)
    scale, shift = (_randn(3, 5, seed=seed).requires_grad_() for seed in (2, 3))
    results = []
    for form in (scale_and_shift, scale_and_shift_plain):
        y = form(x, scale, shift, slope)
        results.append((y, *torch.autograd.grad(y, (x, scale, shift), upstream)))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_float32_statistics_survive_a_mean_of_a_thousand_deviations():
    x = 1000 + _randn(1, 5000, 3, seed=0, dtype=torch.float32)
    _, moments = normalise(x, torch.ones(3), torch.zeros(3), None, 1e-5, 1.0)
    variance, mean = torch.var_mean(x.double(), dim=1, correction=0)
    torch.testing.assert_close(moments.double(), torch.stack([mean, variance]), rtol=1e-5, atol=0)


def test_a_nan_is_passed_on():
    x = _randn(1, 9, 3, seed=0)
    x[0, 4, 1] = torch.nan
    y, moments = normalise(x, torch.ones(3).double(), torch.zeros(3).double(), None, 1e-5, 0.0)
    assert y[..., 1].isnan().all()
    assert moments[..., 1].isnan().all()
    assert y[..., [0, 2]].isfinite().all()
