"""The fused steps against their definitions in NumPy, in float64, over one tile of rows and over many."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.tile_steps import multiply, multiply_backward


def matrix(rows: int, columns: int) -> Tensor:
    """Columns of a wider matrix: their rows are strided, as the features of a block are."""
    return torch.randn(rows, columns + 5, dtype=torch.float64)[:, 2 : columns + 2]


def images(*size: int) -> Tensor:
    return matrix(int(np.prod(size[:3])), size[3]).view(size)


def vector(columns: int) -> Tensor:
    return torch.randn(columns, dtype=torch.float64)


def folded(columns: int) -> FoldedNorm:
    """Any norm: a mean, scale and shift of its own; the steps read no more."""
    return FoldedNorm(*(vector(columns) for _ in range(4)))


def identity(columns: int) -> FoldedNorm:
    one = torch.ones(columns)
    return FoldedNorm(one * 0, one, one, one * 0)


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


# rows, channels in and out: the second is several blocks of rows, slices of columns, and no whole vectors
PRODUCTS = pytest.mark.parametrize(
    "size", [(23, 6, 4), (1, 6, 4), (777, 147, 29)], ids=["one_block", "one_row", "many_blocks"]
)


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 131])
@pytest.mark.parametrize("copies", [True, False], ids=["copies", "measures_only"])
def test_moments_are_numpys(ops, rows, copies):
    x = matrix(rows, 7)
    out = matrix(rows, 7) if copies else None
    mean, var = ops.batch_moments(x, out)
    assert_allclose(mean, x.numpy().mean(0), rtol=1e-13, atol=1e-15)
    assert_allclose(var, x.numpy().var(0), rtol=1e-13, atol=1e-28)
    assert out is None or torch.equal(out, x)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_keep_their_digits_far_from_zero(ops, dtype, offset):
    """Sum of squares less square of sum would be 6 % off at 1e3, and nonsense at 1e5."""
    x = (torch.randn(900, 6) + offset / (10 if dtype == torch.float16 else 1)).to(dtype)
    mean, var = ops.batch_moments(x)
    exact = x.double().numpy()
    assert mean.dtype == var.dtype == torch.float32
    assert_allclose(mean, exact.mean(0), rtol=2e-7, atol=1e-6)
    assert_allclose(var, exact.var(0), rtol=5e-6, atol=1e-20)


def test_equal_values_have_no_variance(ops):
    mean, var = ops.batch_moments(torch.full((100, 3), 0.1))
    assert_allclose(mean, 0.1, rtol=1e-7)
    assert_allclose(var, 0, atol=1e-15)


@pytest.mark.parametrize("with_moments", [True, False], ids=["measured", "not_measured"])
@PRODUCTS
def test_bnrelu_and_products_are_numpys(ops, size, with_moments):
    rows, c, m = size
    x, norm = matrix(rows, c), folded(c)
    _, _, scale, shift = norm
    weight = torch.randn(m, c, dtype=torch.float64)
    activated = np.maximum(x.numpy() * scale.numpy() + shift.numpy(), 0)
    product = activated @ weight.numpy().T
    seen = ops.bnrelu(x, norm, out=torch.empty(rows, c, dtype=torch.float64))
    assert_allclose(seen, activated, rtol=1e-13, atol=1e-15)
    seen, moments = ops.bnrelu_conv1x1(x, norm, weight, with_moments=with_moments)
    assert_allclose(seen, product, rtol=1e-12, atol=1e-14)
    if with_moments:
        assert_allclose(moments, [product.mean(0), product.var(0)], rtol=1e-12, atol=1e-14)
    else:
        assert moments is None
    assert ops.bnrelu(x, norm, out=x) is x
    assert_allclose(x, activated, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_passes_above_zero_and_at_nan_only(ops, dtype):
    gradient = torch.ones(4, 1, dtype=dtype)
    x = torch.tensor([[1e-30], [0.0], [torch.nan], [2.0]], dtype=dtype)
    sums = ops.drelu_sums(gradient, x, identity(1), out=gradient)
    assert gradient.flatten().tolist() == [1, 0, 1, 1]
    assert sums[0].item() == 3
    assert sums[1].isnan()


@pytest.mark.parametrize("onto", ["itself", "another", "source", "source_and_another"])
def test_drelu_sums_are_autograds(ops, onto):
    x, gradient, source, norm = matrix(131, 6), matrix(131, 6), matrix(131, 6), folded(6)
    mean, _, scale, shift = norm
    normalised = (x * scale + shift).requires_grad_()
    normalised.relu().backward(gradient)
    expected = normalised.grad if "source" not in onto else source + scale * normalised.grad
    out = {"itself": gradient, "source": source}.get(onto, matrix(131, 6))
    sums = ops.drelu_sums(gradient, x, norm, source=source if "source" in onto else None, out=out)
    assert_allclose(out, expected, rtol=1e-13, atol=1e-15)
    assert_allclose(sums[0], normalised.grad.sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(sums[1], (normalised.grad * (x - mean)).sum(0), rtol=1e-12, atol=1e-13)


def test_bn_gradient_is_its_formula(ops):
    d, x, norm, terms = matrix(23, 6), matrix(23, 6), folded(6), torch.randn(2, 6).double()
    expected = (norm.scale * d - terms[0] - (x - norm.mean) * terms[1]).numpy()
    assert_allclose(ops.bn_gradient(d, x, norm, terms, out=torch.empty_like(x)), expected, rtol=1e-12, atol=1e-13)
    assert_allclose(ops.bn_gradient(d, x, norm, terms, out=d), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("onto", ["in_place", "into_another", "nowhere"])
@pytest.mark.parametrize("weighed", ["weighed", "not_weighed"])
@PRODUCTS
def test_conv1x1_backward_is_autograds(ops, size, onto, weighed):
    rows, c, m = size
    x, source, norm = matrix(rows, c), matrix(rows, c), folded(c)
    mean, _, scale, shift = norm
    weight, dz = torch.randn(m, c, dtype=torch.float64), matrix(rows, m)
    normalised, w = (x * scale + shift).requires_grad_(), weight.clone().requires_grad_()
    (normalised.relu() @ w.t()).backward(dz)
    before = source.clone()
    out = {"in_place": source, "into_another": torch.empty_like(source), "nowhere": None}[onto]
    onto, needs_dweight = {"source": source, "out": out}, weighed == "weighed"
    dweight, sums = ops.conv1x1_backward(dz, weight, x, norm, **onto, needs_dweight=needs_dweight)
    assert (dweight is not None) == needs_dweight
    if dweight is not None:
        assert_allclose(dweight, w.grad, rtol=1e-12, atol=1e-13)
    assert_allclose(sums[0], normalised.grad.sum(0), rtol=1e-12, atol=1e-13)
    assert_allclose(sums[1], (normalised.grad * (x - mean)).sum(0), rtol=1e-12, atol=1e-13)
    expected = before + (out is not None) * scale * normalised.grad
    assert_allclose(source if out is None else out, expected, rtol=1e-12, atol=1e-13)


SIZES = pytest.mark.parametrize(
    "size",
    [(3, 4, 6, 6, 4), (2, 5, 7, 6, 4), (1, 1, 1, 6, 4), (1, 31, 45, 37, 13), (1, 5, 37, 70, 150), (3, 2, 3, 410, 13)],
    ids=["even", "odd", "one_pixel", "many_lines_of_tiles", "divided_lines", "slices_of_channels"],
)


@SIZES
@pytest.mark.parametrize("with_moments", [True, False], ids=["measured", "not_measured"])
def test_convolutions_are_autograds(ops, size, with_moments):
    """Forward, and all ways to ask for the gradient."""
    *pixels, c, k = size
    x, out, dy, source = images(*pixels, c), images(*pixels, k), images(*pixels, k), images(*pixels, c)
    norm = folded(c)
    mean, _, scale, shift = norm
    weight = torch.randn(k, c, 3, 3, dtype=torch.float64)
    normalised, w = (x * scale + shift).requires_grad_(), weight.clone().requires_grad_()
    y = torch.nn.functional.conv2d(nchw(normalised.relu()), w, padding=1)
    y.backward(nchw(dy))
    moments = ops.bnrelu_conv3x3(x, norm, weight, out, with_moments=with_moments)
    assert_allclose(nchw(out), y.detach(), rtol=1e-12, atol=1e-12)
    if with_moments:
        y = y.detach().transpose(0, 1).flatten(1).numpy()
        assert_allclose(moments, [y.mean(1), y.var(1)], rtol=1e-12, atol=1e-12)
    for onto, needs_dweight in ((None, True), (source, True), (None, False)):
        d = torch.empty(*pixels, c, dtype=torch.float64)
        kinds = {"needs_dweight": needs_dweight, "source": onto, "out": d}
        sums, dweight = ops.bnrelu_conv3x3_backward(dy, x, norm, weight, **kinds)
        expected = normalised.grad if onto is None else source + scale * normalised.grad
        assert_allclose(d, expected, rtol=1e-12, atol=1e-12)
        assert_allclose(sums[0], normalised.grad.sum((0, 1, 2)), rtol=1e-12, atol=1e-12)
        assert_allclose(sums[1], (normalised.grad * (x - mean)).sum((0, 1, 2)), rtol=1e-12, atol=1e-12)
        assert (dweight is not None) == needs_dweight
        if dweight is not None:
            assert_allclose(dweight, w.grad, rtol=1e-12, atol=1e-12)
    sums, dweight = ops.bnrelu_conv3x3_backward(dy, x, norm, weight, out=None, needs_dweight=True)
    assert sums is None
    assert_allclose(dweight, w.grad, rtol=1e-12, atol=1e-12)


SINGLE_OR_HALF = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@SINGLE_OR_HALF
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_pixel_spoils_what_sees_it_only(ops, value, dtype):
    """A convolution by tiles would spoil the whole tile."""
    x, dy = torch.randn(2, 8, 9, 12).to(dtype), torch.randn(2, 8, 9, 5).to(dtype)
    weight, norm = (torch.rand(5, 12, 3, 3) / 9).to(dtype), identity(12)
    x[1, 3, 4, 2] = value
    out, d = torch.empty_like(dy), torch.empty_like(x)
    ops.bnrelu_conv3x3(x, norm, weight, out, with_moments=False)
    exact = dtype if ops.name == "torch" else torch.float32  # PyTorch's own spoils a line of bfloat16 with AMX
    expected = torch.nn.functional.conv2d(nchw(x).relu().to(exact), weight.to(exact), padding=1)
    torch.testing.assert_close(nchw(out), expected.to(dtype), equal_nan=True)
    dy[1, 3, 4, 2] = value
    ops.bnrelu_conv3x3_backward(dy, torch.ones_like(x), norm, weight, out=d, needs_dweight=False)
    expected = torch.nn.functional.conv_transpose2d(nchw(dy).to(exact), weight.to(exact), padding=1)
    torch.testing.assert_close(nchw(d), expected.to(dtype), equal_nan=True)


@SINGLE_OR_HALF
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("c", "bad"), [(12, 2), (230, 200)], ids=["few_channels", "slices_of_channels"])
def test_a_bad_corner_spoils_the_taps_that_see_it_only(ops, c, bad, value, dtype):
    x, dy = torch.randn(2, 8, 9, c).to(dtype), torch.randn(2, 8, 9, 5).to(dtype)
    weight = torch.empty(5, c, 3, 3, dtype=dtype)
    x[1, 0, 0, bad] = value
    onto = {"out": None, "needs_dweight": True}
    _, dweight = ops.bnrelu_conv3x3_backward(dy, x, identity(c), weight, **onto)
    doubles = nchw(x).relu().double(), weight.shape, nchw(dy).double()
    expected = torch.nn.grad.conv2d_weight(*doubles, padding=1).to(dweight.dtype)
    finite = expected.isfinite()
    assert 0 < (~finite).sum() <= 20  # 4 of 9 taps of one channel
    assert torch.equal(dweight.isfinite(), finite)
    rounding = 0.2 if dtype == torch.bfloat16 else 1e-4  # values are about 10
    torch.testing.assert_close(dweight[finite], expected[finite], rtol=0, atol=rounding)


@SINGLE_OR_HALF
def test_large_values_overflow_only_where_the_definition_does(ops, dtype):
    x, weight = torch.full((1, 6, 6, 12), 2e38, dtype=dtype), torch.full((4, 12, 3, 3), 0.01, dtype=dtype)
    out = torch.empty(1, 6, 6, 4, dtype=dtype)
    ops.bnrelu_conv3x3(x, identity(12), weight, out, with_moments=False)
    expected = torch.nn.functional.conv2d(nchw(x).float(), weight.float(), padding=1)
    torch.testing.assert_close(nchw(out), expected.to(dtype))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_computes_the_same(ops, threads):
    x, norm, weight = images(2, 9, 7, 6), folded(6), torch.randn(4, 6, 3, 3, dtype=torch.float64)
    dy, before = images(2, 9, 7, 4), torch.get_num_threads()
    expected = ops.bnrelu_conv3x3_backward(dy, x, norm, weight, out=images(2, 9, 7, 6), needs_dweight=True)
    torch.set_num_threads(threads)
    try:
        seen = ops.bnrelu_conv3x3_backward(dy, x, norm, weight, out=images(2, 9, 7, 6), needs_dweight=True)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("needs_dweight", [True, False])
def test_products_are_what_a_gpu_computes_as_convolutions(needs_dweight, monkeypatch):
    """There they take another way, which a CPU can go as well."""
    x, weight, bias, dy = (torch.randn(*shape, dtype=torch.float64) for shape in ((7, 5), (3, 5), (3,), (7, 3)))
    product = multiply(x, weight, bias), *multiply_backward(dy, x, weight, needs_dweight=needs_dweight)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    convolution = multiply(x, weight, bias), *multiply_backward(dy, x, weight, needs_dweight=needs_dweight)
    for one, other in zip(product, convolution, strict=True):
        torch.testing.assert_close(one, other)
