"""The fused steps on bfloat16 against float64: every number is off by its roundings and no more."""

from math import prod

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.batch_norm import FoldedNorm


def halves(*size: int) -> Tensor:
    """Columns of a wider matrix, so that rows are strided."""
    rows, columns = prod(size[:-1]), size[-1]
    return torch.randn(rows, columns + 5).bfloat16()[:, 2 : columns + 2].view(size)


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def assert_rounded(seen: Tensor, exact: Tensor, magnitudes: Tensor) -> None:
    """Right but for few roundings to bfloat16 of what a number is made of, whose magnitudes add up to so much.

    Where these are zero, a convolution by tiles still has float32's roundings of its neighbours.
    """
    allowed = 3 * 2.0**-9 * (magnitudes + exact.abs()) + 1e-6 * magnitudes.max()
    error = (seen.double() - exact).abs() - allowed
    worst = int(error.argmax())
    assert error.max() <= 0, f"{seen.flatten()[worst]} at {worst} instead of {exact.flatten()[worst]}"


@pytest.mark.parametrize("size", [(23, 6, 4), (1, 6, 4), (777, 147, 29)], ids=["one_block", "one_row", "many_blocks"])
def test_products_of_bfloat16(ops, size):
    rows, c, m = size
    x, dz, source = halves(rows, c), halves(rows, m), halves(rows, c)
    weight, norm = torch.randn(m, c).bfloat16(), FoldedNorm(*torch.randn(4, c))
    mean, _, scale, shift = norm
    w, g = weight.double(), dz.double()
    normalised = x.double() * scale + shift
    activated, on = normalised.relu(), normalised > 0
    product, moments = ops.bnrelu_conv1x1(x, norm, weight, with_moments=True)
    assert product.dtype == torch.bfloat16
    assert_rounded(product, activated @ w.t(), activated @ w.abs().t())
    exact = product.double()  # moments are those of the rounded values
    assert_allclose(moments, [exact.mean(0), exact.var(0, unbiased=False)], rtol=1e-5, atol=1e-5)
    before, out = source.double(), torch.empty_like(source)
    dweight, sums = ops.conv1x1_backward(dz, weight, x, norm, source=source, out=out, needs_dweight=True)
    assert dweight.dtype == sums.dtype == torch.float32
    assert_rounded(dweight, g.t() @ activated, g.abs().t() @ activated)
    d, magnitudes = g @ w * on, g.abs() @ w.abs() * on
    assert_rounded(out, before + scale * d, scale.abs() * magnitudes)
    assert_rounded(sums[0], d.sum(0), magnitudes.sum(0))
    assert_rounded(sums[1], (d * (x - mean)).sum(0), (magnitudes * (x - mean).abs()).sum(0))


@pytest.mark.parametrize(
    "size",
    [
        (3, 4, 6, 6, 4),
        (1, 1, 1, 6, 4),
        (5, 9, 3, 7, 5),
        (2, 31, 45, 37, 13),
        (1, 9, 201, 70, 150),
        (21, 7, 7, 128, 32),
        (65, 2, 2, 37, 13),
        (3, 2, 3, 410, 13),
    ],
    ids=[
        "two_pictures_in_a_block",
        "one_pixel",
        "odd",
        "many_lines_of_tiles",
        "divided_lines",
        "divided_pictures",
        "smallest_tiles",
        "slices_of_channels",
    ],
)
def test_convolutions_of_bfloat16(ops, size):
    *pixels, c, k = size
    if ops.name == "torch":  # where no instruction multiplies bfloat16, PyTorch adds up its pictures' gradients in it
        pixels[0] = min(pixels[0], 5)
    x, dy, source = (halves(*pixels, channels) for channels in (c, k, c))
    weight, norm = torch.randn(k, c, 3, 3).bfloat16(), FoldedNorm(*torch.randn(4, c))
    mean, _, scale, shift = norm
    normalised = x.double() * scale + shift
    activated, on = normalised.relu(), normalised > 0

    def convolve(a: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(nchw(a), b, padding=1).permute(0, 2, 3, 1)

    def gradients(dy: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        return torch.autograd.grad(convolve(a, b), (a, b), dy)

    out, w = halves(*pixels, k), weight.double()
    moments = ops.bnrelu_conv3x3(x, norm, weight, out, with_moments=True)
    assert_rounded(out, convolve(activated, w), convolve(activated, w.abs()))
    exact = out.double().flatten(0, 2)
    assert_allclose(moments, [exact.mean(0), exact.var(0, unbiased=False)], rtol=1e-5, atol=1e-5)
    onto = {"source": source, "out": torch.empty_like(source)}
    sums, dweight = ops.bnrelu_conv3x3_backward(dy, x, norm, weight, **onto, needs_dweight=True)
    d, dw = gradients(dy.double(), activated, w)
    d_magnitudes, dw_magnitudes = gradients(dy.double().abs(), activated, w.abs())
    assert dweight.dtype == sums.dtype == torch.float32
    assert_rounded(dweight, dw, dw_magnitudes)
    d, d_magnitudes = d * on, d_magnitudes * on
    assert_rounded(onto["out"], source.double() + scale * d, scale.abs() * d_magnitudes)
    assert_rounded(sums[0], d.sum((0, 1, 2)), d_magnitudes.sum((0, 1, 2)))
    assert_rounded(sums[1], (d * (x - mean)).sum((0, 1, 2)), (d_magnitudes * (x - mean).abs()).sum((0, 1, 2)))


def test_nothing_of_one_step_is_left_for_the_next(ops):
    """Memory is used again as it is: what was not finite must not come back where channels end."""
    one, x = torch.ones(32), torch.full((2, 4, 4, 32), torch.nan, dtype=torch.bfloat16)
    weight, kernels = torch.ones(32, 32, dtype=torch.bfloat16), torch.ones(32, 32, 3, 3, dtype=torch.bfloat16)

    def all_steps(c: int) -> list[Tensor]:
        few, w, k = x[..., :c], weight[:c, :c].contiguous(), kernels[:c, :c].contiguous()
        norm = FoldedNorm(*[one[:c]] * 4)
        rows, out, d = few.reshape(-1, c), torch.empty(2, 4, 4, c, dtype=x.dtype), torch.empty(32, c, dtype=x.dtype)
        product, _ = ops.bnrelu_conv1x1(rows, norm, w, with_moments=True)
        dweight, sums = ops.conv1x1_backward(product, w, rows, norm, source=rows, out=d, needs_dweight=True)
        ops.bnrelu_conv3x3(few, norm, k, out, with_moments=True)
        back = ops.bnrelu_conv3x3_backward(out, few, norm, k, out=torch.empty_like(out), needs_dweight=True)
        return [product, dweight, sums, d, out, *back]

    assert not any(tensor.isfinite().any() for tensor in all_steps(32))
    x[:] = 1
    assert all(tensor.isfinite().all() for tensor in all_steps(7))
