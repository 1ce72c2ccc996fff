import pytest
import torch

from picpoint.ops.pool import max_and_mean, max_and_mean_plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_equals_its_plain_form_in_value_and_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 50, 7, generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn(3, 14, generator=generator, dtype=dtype)
    results = []
    for form in (max_and_mean, max_and_mean_plain):
        pooled = form(features)
        results.append((pooled, torch.autograd.grad(pooled, features, upstream)[0]))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_of_equal_maxima_the_first_point_takes_the_gradient():
    features = torch.zeros(1, 4, 1, requires_grad=True)
    max_and_mean(features)[0, 0].backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [1, 0, 0, 0]


def test_a_nan_is_passed_on():
    features = torch.zeros(1, 4, 2)
    features[0, 2, 1] = torch.nan
    assert max_and_mean(features).isnan().tolist() == [[False, True, False, True]]
