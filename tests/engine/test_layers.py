"""A whole layer, forward and backward, against autograd through the stock functions, in every type it is stored in.

`test_triton_interpreter` runs this file again, for Triton's kernels, in whose interpreter there is no bfloat16.
"""

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.batch_norm import StoredNorm
from densekit.engine.ops import Bottleneck, TorchOps

HALF = torch.float16 if os.environ.get("TRITON_INTERPRET") == "1" else torch.bfloat16
C, M, K = 6, 5, 3
SIZES = pytest.mark.parametrize("size", [(3, 4, 5), (1, 1, 2), (2, 9, 7)], ids=["small", "two_pixels", "odd"])
WIDE = 149, 33, 17  # a slice of columns and more, whole vectors and more
ALL = {"needs_dweight": True, "needs_dweight2": True}
TYPES = pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (HALF, torch.float32),
        (HALF, HALF),
    ],
    ids=["float64", "float32", "half_of_float32", "half"],
)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, HALF: 0.05}  # a ReLU may be on in one only


def images(size: tuple[int, ...], channels: int, dtype: torch.dtype) -> Tensor:
    """Channels of wider pixels, as the features of a block are."""
    return torch.randn(*size, channels + 2).to(dtype)[..., 1:-1]


def bottleneck(
    stored: torch.dtype, layout: torch.memory_format, widths: tuple[int, int, int] = (C, M, K)
) -> Bottleneck:
    """Parameters of a layer, with stored moments that are far from those of a batch."""

    def norm(channels: int) -> StoredNorm:
        moments = torch.randn(channels), 3 + torch.rand(channels)
        return StoredNorm(
            *(v.to(stored) for v in (1 + torch.randn(channels) / 4, torch.randn(channels), *moments)), 1e-3
        )

    c, m, k = widths
    weights = torch.randn(m, c, 1, 1) / c**0.5, torch.randn(k, m, 3, 3) / (2 * m**0.5)
    weight, weight2 = (w.to(stored).contiguous(memory_format=layout) for w in weights)
    return Bottleneck(norm(c), weight, norm(m), weight2)


class Reference:
    """A layer in float64, by stock functions."""

    def __init__(self, layer: Bottleneck, x: Tensor, trains: bool, trains2: bool):
        self.x = x.detach().double().requires_grad_()
        tensors = (*layer.norm[:2], layer.weight, *layer.norm2[:2], layer.weight2)
        self.parameters = [tensor.detach().double().requires_grad_() for tensor in tensors]
        scale, shift, weight, scale2, shift2, weight2 = self.parameters

        def activated(x: Tensor, norm: StoredNorm, scale: Tensor, shift: Tensor, trains: bool) -> Tensor:
            moments = (None, None) if trains else (norm.mean.double(), norm.var.double())
            return F.batch_norm(x, *moments, scale, shift, training=trains, eps=norm.eps).relu()

        self.z = F.conv2d(activated(self.x.permute(0, 3, 1, 2), layer.norm, scale, shift, trains), weight)
        second = activated(self.z, layer.norm2, scale2, shift2, trains2)
        self.out = F.conv2d(second, weight2, padding=1)

    def gradients(self, dy: Tensor) -> list[Tensor]:
        """Of the features, and of every parameter."""
        inputs = [self.x, *self.parameters]
        return list(torch.autograd.grad(self.out, inputs, dy.permute(0, 3, 1, 2).double()))


def moments_of(pixels: Tensor) -> Tensor:
    rows = pixels.detach().double().flatten(0, 2)
    return torch.stack([rows.mean(0), rows.var(0, correction=0)])


def assert_close(seen: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Within rounding of the largest."""
    error = (seen.double() - exact).abs().max() / exact.abs().max().clamp(min=1)
    assert error < ROUNDING[dtype], f"off by {error:.2g} of the largest"


@SIZES
@TYPES
@LAYOUTS
@pytest.mark.parametrize("trains", [True, False], ids=["trains", "frozen"])
@pytest.mark.parametrize("with_moments", [True, False], ids=["measured", "not_measured"])
def test_forward(ops: TorchOps, size, dtype, stored, layout, trains, with_moments):
    layer, x, out = bottleneck(stored, layout), images(size, C, dtype), images(size, K, dtype)
    exact = Reference(layer, x, trains=False, trains2=trains)
    z, moments2, seen = ops.layer(layer, x, out, dtype, trains=trains, with_moments=with_moments)
    assert z.dtype == dtype
    assert_close(z, exact.z.permute(0, 2, 3, 1), dtype)
    assert_close(out, exact.out.permute(0, 2, 3, 1), dtype)
    assert (moments2 is not None, seen is not None) == (trains, with_moments)
    for moments, pixels in ((moments2, z), (seen, out)):
        if moments is not None:  # of the values as they were rounded
            torch.testing.assert_close(moments.double(), moments_of(pixels), rtol=1e-5, atol=1e-5)


@SIZES
@TYPES
@LAYOUTS
def test_forward_without_gradients(ops: TorchOps, size, dtype, stored, layout):
    layer, x, out = bottleneck(stored, layout), images(size, C, dtype), images(size, K, dtype)
    ops.infer_layer(layer, x, out, dtype)
    exact = Reference(layer, x, trains=False, trains2=False).out.permute(0, 2, 3, 1)
    assert_close(out, exact, dtype)


@SIZES
@TYPES
@LAYOUTS
@pytest.mark.parametrize("trains", [True, False], ids=["first_trains", "first_frozen"])
@pytest.mark.parametrize("trains2", [True, False], ids=["second_trains", "second_frozen"])
def test_backward(ops: TorchOps, size, dtype, stored, layout, trains, trains2):
    assert_gradients(ops, bottleneck(stored, layout), size, dtype, trains, trains2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)  # bfloat16's steps are in test_ops_bfloat16
@pytest.mark.parametrize("onto_itself", [True, False], ids=["onto_itself", "into_another"])
def test_backward_of_many_channels(ops: TorchOps, dtype, onto_itself):
    layer = bottleneck(dtype, torch.channels_last, WIDE)
    assert_gradients(ops, layer, (2, 9, 11), dtype, trains=True, trains2=True, onto_itself=onto_itself)


def test_weights_of_two_types(ops: TorchOps):
    """Each is multiplied in one type, and given a gradient of its own."""
    layer = bottleneck(torch.float32, torch.contiguous_format)
    layer = layer._replace(weight=layer.weight.to(HALF), weight2=layer.weight2.half())
    assert_gradients(ops, layer, (2, 5, 4), HALF, trains=True, trains2=True)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_batch_norms_with_gaps(ops: TorchOps, dtype):
    """Scales and shifts that are columns of matrices."""

    def apart(norm: StoredNorm) -> StoredNorm:
        weight, bias = (torch.stack([vector, vector + 1], 1)[:, 0] for vector in norm[:2])
        return norm._replace(weight=weight, bias=bias)

    layer = bottleneck(torch.float32, torch.contiguous_format)
    strided = layer._replace(norm=apart(layer.norm), norm2=apart(layer.norm2))
    x, dy, z, source = (images((2, 5, 4), c, dtype).contiguous() for c in (C, K, M, C))
    seen = []
    for each in (layer, strided):
        new, out = torch.empty_like(dy), torch.empty_like(x)
        ops.layer(each, x, new, dtype, trains=False, with_moments=False)
        onto = {"source": source, "out": out, "terms": None}
        seen.append([new, out, *ops.layer_backward(each, dy, x, z, trains=True, **onto, **ALL)])
    torch.testing.assert_close(seen[1], seen[0], rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def assert_gradients(
    ops: TorchOps,
    layer: Bottleneck,
    size: tuple[int, ...],
    dtype: torch.dtype,
    trains: bool,
    trains2: bool,
    *,
    onto_itself: bool = False,
) -> None:
    """Of everything, against autograd."""
    C, K = layer.weight.shape[1], len(layer.weight2)
    x, dy, source = images(size, C, dtype), images(size, K, dtype).contiguous(), images(size, C, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = Reference(layer, x, trains, trains2)
    dx, *parameters = exact.gradients(dy)
    if trains:
        mean, var = moments_of(x).to(wide)
        layer = layer._replace(norm=layer.norm._replace(mean=mean, var=var))
    z = exact.z.detach().permute(0, 2, 3, 1).to(dtype).contiguous()
    if trains2:
        mean, var = moments_of(z).to(wide)
        layer = layer._replace(norm2=layer.norm2._replace(mean=mean, var=var))
    before, out = torch.randn(2, C + 1, dtype=wide), source if onto_itself else images(size, C, dtype)
    source_before = source.clone()
    terms = before.clone()
    onto = {"source": source, "out": out, "terms": terms[:, :C] if trains else None}
    gradients = ops.layer_backward(layer, dy, x, z, trains=trains2, **onto, **ALL)
    stored = (*layer.norm[:2], layer.weight, *layer.norm2[:2], layer.weight2)
    for seen, expected, parameter in zip(gradients, parameters, stored, strict=True):
        assert seen is not None
        assert seen.shape == parameter.shape
        assert seen.dtype == parameter.dtype
        assert_close(seen, expected, dtype)
    assert torch.equal(terms[:, C], before[:, C])
    c1, c2 = (terms - before)[:, :C].double() if trains else torch.zeros(2, C, dtype=torch.float64)
    taken_back = c1 + (x.double() - layer.norm.mean.double()) * c2
    assert_close(out.double() - taken_back, source_before.double() + dx, dtype)


@TYPES
def test_backward_of_what_is_wanted(ops: TorchOps, dtype, stored):
    layer, size = bottleneck(stored, torch.channels_last), (2, 5, 4)
    x, dy, z, source = (images(size, c, dtype).contiguous() for c in (C, K, M, C))
    common = {"trains": True, "source": source}
    all_of_it = ops.layer_backward(layer, dy, x, z, **common, out=torch.empty_like(x), terms=None, **ALL)
    before = source.clone()
    for unwanted in ({2}, {5}, {2, 5}):
        wants = {"needs_dweight": 2 not in unwanted, "needs_dweight2": 5 not in unwanted}
        some = ops.layer_backward(layer, dy, x, z, **common, out=None, terms=None, **wants)
        assert torch.equal(source, before)
        for number, (one, other) in enumerate(zip(some, all_of_it, strict=True)):
            assert one is None if number in unwanted else torch.equal(one, other)


@pytest.mark.parametrize("threads", [1, 2, 50])
def test_any_number_of_threads(ops: TorchOps, threads):
    """More threads than there is work, too."""
    layer, size = bottleneck(torch.float64, torch.contiguous_format), (2, 5, 4)
    x, dy, z, source = (images(size, c, torch.float64).contiguous() for c in (C, K, M, C))

    def compute() -> list[Tensor]:
        out, d, terms = torch.empty_like(dy), torch.empty_like(x), torch.zeros(2, C, dtype=torch.float64)
        _, moments2, seen = ops.layer(layer, x, out, torch.float64, trains=True, with_moments=True)
        onto = {"source": source, "out": d, "terms": terms}
        return [
            out,
            moments2,
            seen,
            d,
            terms,
            *ops.layer_backward(layer, dy, x, z, trains=True, **onto, **ALL),
        ]

    before, expected = torch.get_num_threads(), compute()
    torch.set_num_threads(threads)
    try:
        seen = compute()
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, in Triton's interpreter
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_frozen_moments_take_nothing_back(ops: TorchOps, dtype):
    """Not even zero times infinity."""
    layer, size = bottleneck(torch.float32, torch.contiguous_format), (1, 5, 4)
    x, dy, z, source = (images(size, c, dtype).contiguous() for c in (C, K, M, C))
    z[0, 2, 2, 1] = torch.inf if layer.norm2.weight[1] < 0 else -torch.inf  # behind the ReLU it is zero
    out = torch.empty_like(x)
    ops.layer_backward(layer, dy, x, z, trains=False, source=source, out=out, terms=None, **ALL)
    assert out.isfinite().all()
