"""The Triton kernels against the plain steps in float64: on a GPU, or in Triton's interpreter on the CPU.

Whether Triton interprets is settled when it is first imported, so that `test_triton_interpreter` runs this file in a
process of its own. bfloat16 is for GPUs: the interpreter multiplies its bits as if they were numbers.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.choose_ops import choose_ops
from densekit.engine.ops import TorchOps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0)):
    reason = "no GPU of compute capability 8.0; test_triton_interpreter runs this file on the CPU"
    pytest.skip(reason, allow_module_level=True)

from densekit.engine import triton_launchers  # noqa: E402 (triton may be missing where these tests are skipped)

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])]
EXACT, SINGLE = TorchOps(), torch.float32


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def ops(monkeypatch) -> TorchOps:
    """Small groups and stripes, so that small matrices take several, the last one ragged; float32 without TF32."""
    monkeypatch.setattr(triton_launchers, "_GROUP", 2)
    monkeypatch.setattr(triton_launchers, "_STRIPE", 128)
    # the interpreter multiplies float32 exactly, whatever it is told: so the kernels for TF32 are tested there as well
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", INTERPRETED)
    return choose_ops("triton", DEVICE).ops


def matrix(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Columns of a wider matrix: their rows are strided, as the features of a block are, 64 aligned as they are."""
    before, after = (16, 16) if columns == 64 else (2, 3)
    return torch.randn(rows, before + columns + after).to(DEVICE, dtype)[:, before : before + columns]


def vector(columns: int) -> Tensor:
    return torch.randn(columns, device=DEVICE)


def close(seen: Tensor, exact: Tensor, *dtypes: torch.dtype) -> None:
    """Assert four roundings to these types at most, of the largest value or of 1, the size of what goes in."""
    error = 4 * max(torch.finfo(dtype).eps for dtype in (seen.dtype, *dtypes))
    size = max(1.0, exact.abs().max().item())
    torch.testing.assert_close(seen.double(), exact.double(), rtol=error, atol=error * size)


def folded(columns: int) -> FoldedNorm:
    """Any norm: a mean, scale and shift of its own; the steps read no more."""
    return FoldedNorm(*(vector(columns) for _ in range(4)))


def identity(columns: int) -> FoldedNorm:
    one = torch.ones(columns, device=DEVICE)
    return FoldedNorm(one * 0, one, one, one * 0)


def double(*given: Any) -> list[Any]:
    """Tensors and norms in float64."""
    return [FoldedNorm(*double(*one)) if isinstance(one, FoldedNorm) else one.double() for one in given]


SIZES = pytest.mark.parametrize(("rows", "columns"), [(1, 1), (131, 6), (300, 70), (700, 17), (144, 64)])


@SIZES
@pytest.mark.parametrize("copies", [True, False], ids=["copies", "measures_only"])
def test_moments(ops, dtype, rows, columns, copies):
    x = matrix(rows, columns, dtype)
    out = matrix(rows, columns, SINGLE) if copies else None
    seen = ops.batch_moments(x, out)
    assert seen.dtype == SINGLE
    for one, exact in zip(seen, EXACT.batch_moments(x.double()), strict=True):
        close(one, exact)
    assert out is None or torch.equal(out, x.float())


def test_moments_keep_their_digits_far_from_zero(ops, dtype):
    """Sum of squares less square of sum would be 6 % off at 1000 in float32."""
    x = (torch.randn(900, 20) + 1000).to(DEVICE, dtype)
    (mean, var), exact = ops.batch_moments(x), EXACT.batch_moments(x.double())
    torch.testing.assert_close(mean.double(), exact[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), exact[1], rtol=5e-6, atol=0)  # NumPy sums row by row
    (mean, var) = ops.batch_moments(torch.full((900, 3), 0.1, device=DEVICE))
    torch.testing.assert_close(mean, torch.full_like(mean, 0.1))
    torch.testing.assert_close(var, torch.zeros_like(var), rtol=0, atol=1e-15)


@SIZES
def test_bnrelu(ops, dtype, rows, columns):
    x, norm = matrix(rows, columns, dtype), folded(columns)
    exact = EXACT.bnrelu(*double(x, norm), out=x.double())
    close(ops.bnrelu(x, norm, out=matrix(rows, columns, SINGLE)), exact)
    assert ops.bnrelu(x, norm, out=x) is x
    close(x, exact)


@SIZES
@pytest.mark.parametrize("onto", ["itself", "another", "source", "source_and_another"])
def test_drelu_sums(ops, dtype, rows, columns, onto):
    x, gradient, source = (matrix(rows, columns, dtype) for _ in range(3))
    norm = folded(columns)
    out = {"itself": gradient, "source": source}.get(onto, matrix(rows, columns, dtype))
    onto = source if "source" in onto else None
    exact = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    exact_onto = None if onto is None else onto.double()
    sums = EXACT.drelu_sums(*double(gradient, x, norm), source=exact_onto, out=exact)
    close(ops.drelu_sums(gradient, x, norm, source=onto, out=out), sums)
    close(out, exact)


@SIZES
def test_bn_gradient(ops, dtype, rows, columns):
    d, x = matrix(rows, columns, dtype), matrix(rows, columns, dtype)
    terms = torch.randn(2, columns + 3, device=DEVICE)[:, 2:-1]  # a slice of all channels', as a block's are
    norm = folded(columns)
    exact = EXACT.bn_gradient(*double(d, x, norm, terms), out=d.double())
    close(ops.bn_gradient(d, x, norm, terms, out=matrix(rows, columns, dtype)), exact)
    close(ops.bn_gradient(d, x, norm, terms, out=d), exact)


PRODUCTS = pytest.mark.parametrize(
    ("rows", "columns", "outputs"), [(1, 1, 1), (131, 6, 20), (300, 70, 130), (144, 64, 64)]
)


@PRODUCTS
@pytest.mark.parametrize("with_moments", [True, False], ids=["measured", "not_measured"])
def test_product(ops, dtype, rows, columns, outputs, with_moments):
    x, norm = matrix(rows, columns, dtype), folded(columns)
    weight = matrix(outputs, columns, dtype)
    exact, _ = EXACT.bnrelu_conv1x1(*double(x, norm, weight), with_moments=False)
    seen, moments = ops.bnrelu_conv1x1(x, norm, weight, with_moments=with_moments)
    close(seen, exact)
    assert (moments is not None) == with_moments
    if moments is not None:
        for one, measured in zip(moments, EXACT.batch_moments(seen.double()), strict=True):
            close(one, measured)


@PRODUCTS
@pytest.mark.parametrize(
    ("onto", "needs_dweight"), [("in_place", True), ("into_another", False), ("nowhere", True)], ids=str
)
def test_conv1x1_backward(ops, dtype, rows, columns, outputs, onto, needs_dweight):
    x, source = matrix(rows, columns, dtype), matrix(rows, columns, dtype)
    dz, weight = matrix(rows, outputs, dtype), matrix(outputs, columns, dtype)
    norm = folded(columns)
    out = {"in_place": source, "into_another": matrix(rows, columns, dtype), "nowhere": None}[onto]
    exact = torch.empty(source.shape, dtype=torch.float64, device=DEVICE)
    exacts = EXACT.conv1x1_backward(*double(dz, weight, x, norm), source=source.double(), out=exact, needs_dweight=True)
    before = source.clone()
    dweight, sums = ops.conv1x1_backward(dz, weight, x, norm, source=source, out=out, needs_dweight=needs_dweight)
    assert (dweight is not None) == needs_dweight
    if dweight is not None:
        close(dweight, exacts[0], dtype)  # activations are rounded before they are multiplied
    close(sums, exacts[1])
    if out is not None:
        close(out, exact)
    assert onto == "in_place" or torch.equal(source, before)


def assert_products(ops: TorchOps, x: Tensor, weight: Tensor, dz: Tensor, *rounded: torch.dtype) -> None:
    """Compare both products with exact ones, up to what the multiplied numbers are rounded to."""
    norm = folded(x.shape[1])
    exact, _ = EXACT.bnrelu_conv1x1(*double(x, norm, weight), with_moments=False)
    close(ops.bnrelu_conv1x1(x, norm, weight, with_moments=True)[0], exact, *rounded)
    out, exact_out = torch.empty_like(x), torch.empty(x.shape, dtype=torch.float64, device=DEVICE)
    onto, exact_onto = {"source": x, "out": out}, {"source": x.double(), "out": exact_out}
    exacts = EXACT.conv1x1_backward(*double(dz, weight, x, norm), **exact_onto, needs_dweight=True)
    seens = ops.conv1x1_backward(dz, weight, x, norm, **onto, needs_dweight=True)
    for seen, true in zip(seens, exacts, strict=True):
        close(seen, true, *rounded)
    close(out, exact_out, *rounded)


@PRODUCTS
@pytest.mark.parametrize("half", DTYPES[1:], ids=str)
def test_products_of_features_in_float32_and_weights_of_a_half_type(ops, half, rows, columns, outputs):
    """What autocast makes of a block that is given float32."""
    assert_products(
        ops, matrix(rows, columns, SINGLE), matrix(outputs, columns, half), matrix(rows, outputs, half), half
    )


@PRODUCTS
def test_products_in_tf32_where_convolutions_are(ops, rows, columns, outputs, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x, weight, dz = matrix(rows, columns, SINGLE), matrix(outputs, columns, SINGLE), matrix(rows, outputs, SINGLE)
    assert_products(ops, x, weight, dz, torch.float16)  # TF32 has as many digits


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_multiplied_as_in_convolutions(monkeypatch, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    assert triton_launchers.precision() == ("tf32" if allowed else "ieee")


def test_rows_that_stick_out_of_a_tile_add_nothing(ops):
    """Not even where the shift is beyond float16, as of a channel that hardly varies around a number below zero."""
    x, dz, weight = matrix(131, 6, torch.float16) / 100 - 400, matrix(131, 20, torch.float16), matrix(20, 6, SINGLE)
    scale, mean = torch.full((6,), 300.0, device=DEVICE), torch.full((6,), -400.0, device=DEVICE)
    operands = (dz, weight.half(), x, FoldedNorm(mean, 1 / scale, scale, -mean * scale))
    dweight, _ = ops.conv1x1_backward(*operands, source=x, out=None, needs_dweight=True)
    exact, _ = EXACT.conv1x1_backward(*double(*operands), source=x.double(), out=None, needs_dweight=True)
    close(dweight, exact, torch.float16)


def test_rows_far_apart(ops):
    """The last row begins 2 ** 31 values behind the first: offsets are of 64 bits."""
    apart, rows, half = 1 << 27, 17, torch.float16
    if DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 6e9:
        pytest.skip("less than 6 GB free on the GPU")
    memory = torch.empty((rows - 1) * apart + 100, dtype=half, device=DEVICE)  # a CPU's is there once it is touched
    x, gradient, out = (memory.as_strided((rows, 6), (apart, 1), start) for start in (0, 16, 32))
    for one in (x, gradient):
        one.copy_(torch.randn(rows, 6))
    norm, weight = folded(6), torch.randn(6, 6).to(DEVICE, half)
    exact = torch.empty(rows, 6, dtype=torch.float64, device=DEVICE)
    moments = EXACT.batch_moments(x.double())
    for seen, true in zip(ops.batch_moments(x, out), moments, strict=True):
        close(seen, true)
    assert torch.equal(out, x)
    close(ops.bnrelu(x, norm, out=out), EXACT.bnrelu(*double(x, norm), out=exact))
    onto = {"source": x.double(), "out": exact}
    sums = EXACT.drelu_sums(*double(gradient, x, norm), **onto)
    close(ops.drelu_sums(gradient, x, norm, source=x, out=out), sums)
    close(out, exact)
    EXACT.bn_gradient(*double(gradient, x, norm), moments, out=exact)
    close(ops.bn_gradient(gradient, x, norm, moments.float(), out=out), exact)
    product, _ = EXACT.bnrelu_conv1x1(*double(x, norm, weight), with_moments=False)
    close(ops.bnrelu_conv1x1(x, norm, weight, with_moments=False)[0], product)
    exacts = EXACT.conv1x1_backward(*double(gradient, weight, x, norm), **onto, needs_dweight=True)
    seens = ops.conv1x1_backward(gradient, weight, x, norm, source=x, out=out, needs_dweight=True)
    for seen, true in zip(seens, exacts, strict=True):
        close(seen, true, half)
    close(out, exact)


def test_what_fits_no_kernel_is_computed_by_the_plain_steps(ops):
    """float64, more outputs than a program holds, columns that lie apart."""
    x, (norm,) = matrix(20, 6, torch.float64), double(folded(6))
    close(ops.bnrelu(x, norm, out=torch.empty_like(x)), EXACT.bnrelu(x, norm, out=torch.empty_like(x)))
    x, norm, dz = x.float(), folded(6), matrix(20, 300, SINGLE)
    onto = {"source": x, "out": torch.empty_like(x), "needs_dweight": True}
    weight = matrix(300, 6, SINGLE)
    for one, exact in zip(
        ops.conv1x1_backward(dz, weight, x, norm, **onto),
        EXACT.conv1x1_backward(dz, weight, x, norm, **onto),
        strict=True,
    ):
        close(one, exact)
    apart = matrix(6, 20, SINGLE).t()
    close(ops.batch_moments(apart), EXACT.batch_moments(apart.double()))


def test_max_pooling(ops, dtype):
    """Whole numbers, which every type holds, so that all agree on which is the largest."""
    x = torch.randint(-99, 99, (2, 5, 7, 70)).to(DEVICE, dtype)
    norm = identity(70)
    out = torch.empty(2, 3, 4, 70, device=DEVICE, dtype=dtype)
    exact = out.double()
    indices = ops.bnrelu_max_pool(x, norm, out, return_indices=True)
    assert torch.equal(indices, EXACT.bnrelu_max_pool(*double(x, norm), exact, return_indices=True))
    assert torch.equal(out.double(), exact)
    dpooled = torch.randint(-9, 9, out.shape).to(DEVICE, dtype)
    for seen, true in zip(
        ops.bnrelu_max_pool_backward(dpooled, indices, x, norm),
        EXACT.bnrelu_max_pool_backward(*double(dpooled), indices, *double(x, norm)),
        strict=True,
    ):
        close(seen, true)


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 5, 7), (2, 2, 3)], ids=["even", "odd", "smallest"])
@pytest.mark.parametrize("columns", [5, 70])
def test_pooling(ops, dtype, size, columns):
    x = torch.randn(*size, columns).to(DEVICE, dtype)
    norm = folded(columns)
    exact = EXACT.bnrelu_avg_pool(*double(x, norm), torch.float64)
    close(ops.bnrelu_avg_pool(x, norm, dtype), exact)
    dpooled = torch.randn(exact.shape).to(DEVICE, dtype)
    for one, true in zip(
        ops.bnrelu_avg_pool_backward(dpooled, x, norm),
        EXACT.bnrelu_avg_pool_backward(*double(dpooled, x, norm)),
        strict=True,
    ):
        close(one, true)


def test_nan_passes_and_zero_does_not(ops, dtype):
    norm = identity(1)
    x = torch.tensor([[1e-7], [0.0], [torch.nan], [2.0], [-3.0]], device=DEVICE).to(dtype)
    expected = [1, 0, 1, 1, 0]
    assert ops.bnrelu(x, norm, out=torch.empty_like(x)).isnan().flatten().tolist() == [0, 0, 1, 0, 0]
    gradient = torch.ones_like(x)
    sums = ops.drelu_sums(gradient, x, norm, out=gradient)
    assert gradient.flatten().tolist() == expected
    assert sums[0].item() == 3
    assert sums[1].isnan()
    product, moments = ops.bnrelu_conv1x1(x, norm, torch.ones_like(x[:1]), with_moments=True)
    assert product.isnan().flatten().tolist() == [0, 0, 1, 0, 0]
    assert moments is not None
    assert moments.isnan().all()
    assert ops.batch_moments(x).isnan().all()
    out = torch.zeros_like(x)
    dweight, sums = ops.conv1x1_backward(
        gradient.fill_(1), x[3:4] / 2, x, norm, source=out, out=out, needs_dweight=True
    )
    assert out.flatten().tolist() == expected
    assert dweight.isnan().all()
    assert sums[1].isnan()


def test_same_bits_twice(ops, dtype):
    x, dz, weight = matrix(260, 20, dtype), matrix(260, 17, dtype), matrix(17, 20, dtype)
    norm = folded(20)
    runs = []
    for _ in range(2):
        out = torch.empty(x.shape, dtype=dtype, device=DEVICE)
        results = [ops.batch_moments(x), *ops.bnrelu_conv1x1(x, norm, weight, with_moments=True)]
        results += [*ops.conv1x1_backward(dz, weight, x, norm, source=x, out=out, needs_dweight=True), out]
        results += [ops.drelu_sums(x, x, norm, out=torch.empty_like(out))]
        runs.append(results)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
