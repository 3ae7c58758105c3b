"""The fused steps against their definitions in NumPy, in float64, over one tile of rows and over many."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from densekit.engine import ops
from densekit.engine.choose_ops import choose_ops


@pytest.fixture(params=[1 << 18, 60, 7], ids=["one_tile", "ragged_tiles", "tiny_tiles"], autouse=True)
def tiles(request, monkeypatch):
    monkeypatch.setattr(ops, "_TILE_VALUES", request.param)


def matrix(rows: int, columns: int) -> Tensor:
    """Columns of a wider matrix: their rows are strided, as the features of a block are."""
    return torch.randn(rows, columns + 5, dtype=torch.float64)[:, 2 : columns + 2]


def vector(columns: int) -> Tensor:
    return torch.randn(columns, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 131])
def test_moments_are_numpys(rows):
    x = matrix(rows, 7)
    mean, var = ops.batch_moments(x)
    assert_allclose(mean, x.numpy().mean(0), rtol=1e-13, atol=1e-15)
    assert_allclose(var, x.numpy().var(0), rtol=1e-13, atol=1e-28)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_keep_their_digits_far_from_zero(dtype, offset):
    """Sum of squares less square of sum would be 6 % off at 1e3, and nonsense at 1e5."""
    x = (torch.randn(900, 6) + offset / (10 if dtype == torch.float16 else 1)).to(dtype)
    mean, var = ops.batch_moments(x)
    exact = x.double().numpy()
    assert mean.dtype == var.dtype == torch.float32
    assert_allclose(mean, exact.mean(0), rtol=2e-7, atol=1e-6)
    assert_allclose(var, exact.var(0), rtol=5e-6)


def test_equal_values_have_no_variance():
    mean, var = ops.batch_moments(torch.full((100, 3), 0.1))
    assert_allclose(mean, 0.1, rtol=1e-7)
    assert_allclose(var, 0, atol=1e-15)


def test_bnrelu_and_products_are_numpys():
    x, scale, shift, scale2, shift2 = matrix(23, 6), vector(6), vector(6), vector(4), vector(4)
    weight = torch.randn(4, 6, dtype=torch.float64)
    activated = np.maximum(x.numpy() * scale.numpy() + shift.numpy(), 0)
    product = activated @ weight.numpy().T
    seen = ops.bnrelu(x, scale, shift, out=torch.empty(23, 6, dtype=torch.float64))
    assert_allclose(seen, activated, rtol=1e-13, atol=1e-15)
    assert_allclose(ops.bnrelu_product(x, scale, shift, weight), product, rtol=1e-12, atol=1e-14)
    second = ops.bnrelu_product_bnrelu(x, scale, shift, weight, scale2, shift2)
    assert_allclose(second, np.maximum(product * scale2.numpy() + shift2.numpy(), 0), rtol=1e-12, atol=1e-13)
    assert ops.bnrelu(x, scale, shift, out=x) is x
    assert_allclose(x, activated, rtol=1e-13, atol=1e-15)


def test_the_gradient_passes_above_zero_and_at_nan_only():
    gradient, x = torch.ones(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    activated = torch.tensor([[1e-30], [0.0], [torch.nan], [torch.inf]])
    total, weighted = ops.drelu_sums(gradient, activated, x, torch.tensor([2.0]))
    assert gradient.flatten().tolist() == [1, 0, 1, 1]
    assert (total.item(), weighted.item()) == (3, -1 + 1 + 2)


def test_bn_gradient_is_its_formula():
    d, x, mean, c1, c2, scale = matrix(23, 6), matrix(23, 6), *(vector(6) for _ in range(4))
    plain = d.numpy() - c1.numpy() - (x.numpy() - mean.numpy()) * c2.numpy()
    scaled = plain + d.numpy() * (scale.numpy() - 1)
    assert_allclose(ops.bn_gradient(d, x, mean, c1, c2, out=torch.empty_like(x)), plain, rtol=1e-12, atol=1e-13)
    assert_allclose(ops.bn_gradient(d, x, mean, c1, c2, out=d, scale=scale), scaled, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("in_place", [True, False], ids=["in_place", "into_another"])
def test_product_backward_is_autograds(in_place):
    x, scale, shift, mean, source = matrix(23, 6), vector(6), vector(6), vector(6), matrix(23, 6)
    weight, dz = torch.randn(4, 6, dtype=torch.float64), matrix(23, 4)
    normalised, w = (x * scale + shift).requires_grad_(), weight.clone().requires_grad_()
    (normalised.relu() @ w.t()).backward(dz)
    before = source.clone()
    out = source if in_place else torch.empty_like(source)
    dweight, total, weighted = ops.product_backward(dz, weight, x, scale, shift, mean, source, out)
    assert_allclose(dweight, w.grad, rtol=1e-12, atol=1e-13)
    assert_allclose(total, normalised.grad.sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(weighted, (normalised.grad * (x - mean)).sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(out, before + scale * normalised.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 5, 7), (2, 2, 3)], ids=["even", "odd", "smallest"])
def test_pooling_is_autograds(size):
    x = torch.randn(*size, 5, dtype=torch.float64)
    scale, shift, mean = vector(5), vector(5), vector(5)
    normalised = (x * scale + shift).requires_grad_()
    pooled = torch.nn.functional.avg_pool2d(normalised.relu().permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    dpooled = torch.randn(pooled.shape, dtype=torch.float64)
    pooled.backward(dpooled)
    assert_allclose(ops.bnrelu_pool(x, scale, shift, torch.float64), pooled.detach(), rtol=1e-13, atol=1e-15)
    gradient, total, weighted, again = ops.bnrelu_pool_backward(dpooled, x, scale, shift, mean)
    assert_allclose(again, pooled.detach(), rtol=1e-13, atol=1e-15)
    assert_allclose(gradient, normalised.grad, rtol=1e-13, atol=1e-15)
    assert_allclose(total, normalised.grad.sum((0, 1, 2)), rtol=1e-12, atol=1e-13)
    assert_allclose(weighted, (normalised.grad * (x - mean)).sum((0, 1, 2)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_the_choice_is_plain_pytorch(engine):
    choice = choose_ops(engine, "cpu")
    assert choice.name == "torch"
    assert choice.ops is ops
