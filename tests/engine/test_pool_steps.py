"""Batch norm, ReLU and pooling in one step, against PyTorch's own operations and autograd."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.batch_norm import FoldedNorm


def folded(columns: int) -> FoldedNorm:
    """Any norm: a mean, scale and shift of its own; the steps read no more."""
    return FoldedNorm(*(torch.randn(columns, dtype=torch.float64) for _ in range(4)))


def nchw(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


@pytest.mark.parametrize(
    "size",
    [(3, 4, 6), (2, 5, 7), (2, 2, 3), (2, 4, 6, 2), (2, 5, 3, 7)],
    ids=["even", "odd", "smallest", "volumes", "odd_volumes"],
)
def test_pooling_is_autograds(ops, size):
    x = torch.randn(*size, 5, dtype=torch.float64)
    norm = folded(5)
    normalised = (x * norm.scale + norm.shift).requires_grad_()
    average = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
    pooled = average(nchw(normalised.relu()), 2).movedim(1, -1)
    dpooled = torch.randn(pooled.shape, dtype=torch.float64)
    pooled.backward(dpooled)
    assert_allclose(ops.bnrelu_avg_pool(x, norm, torch.float64), pooled.detach(), rtol=1e-13, atol=1e-15)
    gradient, sums = ops.bnrelu_avg_pool_backward(dpooled, x, norm)
    assert_allclose(gradient, normalised.grad, rtol=1e-13, atol=1e-15)
    assert_allclose(sums[0], normalised.grad.flatten(0, -2).sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(sums[1], (normalised.grad * (x - norm.mean)).flatten(0, -2).sum(0), rtol=1e-12, atol=1e-13)


def stock_max_pool(x: Tensor, norm: FoldedNorm) -> tuple[Tensor, Tensor]:
    """What is normalised, to be differentiated by, and what is pooled, (N, h, w, C)."""
    normalised = (x * norm.scale + norm.shift).requires_grad_()
    pool = F.max_pool2d if x.dim() == 4 else F.max_pool3d
    return normalised, pool(nchw(normalised.relu()), 3, stride=2, padding=1).movedim(1, -1)


MAX_POOLED = pytest.mark.parametrize(
    "size",
    [(3, 4, 6), (2, 5, 7), (2, 2, 3), (2, 1, 1), (1, 1, 8), (2, 5, 4, 7)],
    ids=["even", "odd", "small", "pixel", "line", "volumes"],
)


@pytest.mark.parametrize("equals", [False, True], ids=["all_different", "many_equal"])
@MAX_POOLED
def test_max_pooling_is_autograds(ops, size, equals):
    """Among equal values the first one gets the gradient."""
    x = torch.randn(*size, 5, dtype=torch.float64)
    if equals:
        x = x.round()
    norm = folded(5)
    normalised, pooled = stock_max_pool(x, norm)
    dpooled = torch.randn(pooled.shape, dtype=torch.float64)
    pooled.backward(dpooled)
    out = torch.empty_like(dpooled)
    indices = ops.bnrelu_max_pool(x, norm, out, return_indices=True)
    assert_allclose(out, pooled.detach(), rtol=1e-13, atol=1e-15)
    gradient, sums = ops.bnrelu_max_pool_backward(dpooled, indices, x, norm)
    assert_allclose(gradient, normalised.grad, rtol=1e-13, atol=1e-15)
    assert_allclose(sums[0], normalised.grad.flatten(0, -2).sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(sums[1], (normalised.grad * (x - norm.mean)).flatten(0, -2).sum(0), rtol=1e-12, atol=1e-13)
    again = torch.empty_like(out)
    assert ops.bnrelu_max_pool(x, norm, again, return_indices=False) is None
    assert torch.equal(again, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_one_bad_pixel_is_pooled_as_in_pytorch(ops, value, dtype):
    x, one = torch.randn(2, 8, 9, 37).to(dtype), torch.ones(37)
    norm = FoldedNorm(one * 0, one, one, one * 0)
    x[1, 3, 4, 2] = x[0, 7, 8, 36] = value
    normalised, pooled = stock_max_pool(x.float(), norm)
    dpooled = torch.randn(pooled.shape).to(dtype)
    pooled.backward(dpooled.float())
    out = torch.empty(pooled.shape, dtype=dtype)
    indices = ops.bnrelu_max_pool(x, norm, out, return_indices=True)
    torch.testing.assert_close(out, pooled.detach().to(dtype), rtol=0, atol=0, equal_nan=True)
    gradient, _ = ops.bnrelu_max_pool_backward(dpooled, indices, x, norm)
    rounding = 0.03 if dtype == torch.bfloat16 else 0  # PyTorch's own sums up to four values in steps
    torch.testing.assert_close(gradient, normalised.grad.to(dtype), rtol=0, atol=rounding, equal_nan=True)
