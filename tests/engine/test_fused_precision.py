"""A fused block in float32 and half types: no further from float64 than the stock block is."""

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.densenet import _DenseBlock

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition

FEW_ROUNDINGS = 4 * torch.finfo(torch.float32).eps
"""Below this the order of summation decides: oneDNN's and MKL's products differ by 0.6 to 1.7 either way."""


def block() -> nn.Module:
    return _DenseBlock(3, 24, bn_size=4, growth_rate=16, drop_rate=0.0)


def transition() -> nn.Module:
    return Transition(48, 24)  # which averages first, too: rounding after the mean is not averaged away


def stem() -> nn.Module:
    parts = {"norm0": nn.BatchNorm2d(24), "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, stride=2, padding=1)}
    return nn.Sequential(OrderedDict(parts))


def block_of_volumes() -> nn.Module:
    return DenseBlock(3, 24, 16, spatial_dims=3)


def transition_of_volumes() -> nn.Module:
    return Transition(48, 24, spatial_dims=3)


def stem_of_volumes() -> nn.Module:
    parts = {"norm0": nn.BatchNorm3d(24), "relu0": nn.ReLU(), "pool0": nn.MaxPool3d(3, stride=2, padding=1)}
    return nn.Sequential(OrderedDict(parts))


BUILDERS = [block, transition, stem, block_of_volumes, transition_of_volumes, stem_of_volumes]


def pixels(build: Callable[[], nn.Module], offset: float, side: int = 16) -> Tensor:
    """Pictures of so many pixels a side, or smaller volumes, for what ``build`` makes."""
    channels = 48 if "transition" in build.__name__ else 24
    size = (4, channels, side, side)
    if "volumes" in build.__name__:
        size = (2, channels, 6, 8, 8)
    x = torch.randn(size)
    x[:, ::3] += offset
    return x


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("how", "offset"),
    [(how, offset) for how in ("float32", "bfloat16", "autocast_bfloat16", "autocast_float32_input")
     for offset in (0, 1000)] + [("float16", 0)],
)  # fmt: skip
@pytest.mark.parametrize("build", BUILDERS)
def test_error_is_at_most_that_of_stock(build, how, offset, training, randomise, gradients, errors, assert_ran, engine):
    stock = randomise(build()).train(training)
    dtype = getattr(torch, how.removeprefix("autocast_").removesuffix("_input"))
    if not how.startswith("autocast"):
        stock.to(dtype)
    side = 10 if how == "float16" else 16  # convolutions of float16 are slow on a CPU
    # oneDNN's 3x3 convolution rounds differently in each memory layout: the same one for both
    if build is transition_of_volumes and not how.startswith("autocast") and dtype != torch.float32:
        pytest.skip("PyTorch has no mean of volumes in half types on a CPU: nothing to compare with")
    if build is stem_of_volumes and how == "autocast_bfloat16":
        pytest.skip("on a CPU, and nowhere else, autocast pools volumes in float32: compared without autocast")
    x = pixels(build, offset, side).to(dtype)
    x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    exact = deepcopy(stock).double()
    dy = torch.randn_like(exact(x.double())).detach().to(dtype) / 100  # float16 overflows at 65,504
    truth = gradients(deepcopy(stock).double(), x.double(), dy)
    seen = []
    for model in (stock, fuse(deepcopy(stock), engine)):
        with torch.autocast("cpu", torch.bfloat16, enabled=how.startswith("autocast")):
            seen.append(gradients(model, x, dy))
    assert_ran(model, engine)
    assert {name: tensor.dtype for name, tensor in seen[1].items()} == {n: t.dtype for n, t in seen[0].items()}
    of_stock, of_fused = errors(seen[0], truth), errors(seen[1], truth)
    for kind, error in of_fused.items():
        assert error <= max(1.2 * of_stock[kind], FEW_ROUNDINGS), (kind, error, of_stock[kind])


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_gradients_of_volumes_of_few_slices_in_bfloat16(slices, randomise, gradients, errors, engine):
    """Against float64, and loosely: over two slices PyTorch's own gradient of the weights is 1e18 and the like."""
    stock = randomise(block_of_volumes())
    x = torch.randn(2, 24, slices, 3, 4).to(memory_format=torch.channels_last_3d)
    dy = torch.randn(2, 72, slices, 3, 4)
    truth = gradients(deepcopy(stock).double(), x.double(), dy.double())
    fused = fuse(stock, engine)
    with torch.autocast("cpu", torch.bfloat16):
        of_fused = errors(gradients(fused, x, dy), truth)
    assert max(of_fused.values()) < 0.3, of_fused


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("mode", ["train", "eval", "second_norms_train", "last_layer_trains"])
@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_not_finite_is_so_in_stock(build, mode, value, randomise, gradients, assert_ran, engine):
    """A single bad pixel: the same places are NaN and infinite, and the rest has the same numbers."""
    stock = randomise(build()).double().train(mode == "train")
    for name, module in stock.named_modules():
        if mode == "second_norms_train" and name.endswith("norm2"):
            module.train()
        if mode == "last_layer_trains" and name.startswith("denselayer3"):
            module.train()
    x = pixels(build, 0.0, 7).double()
    x[1, 5, ..., 2, 2] = value
    fused = fuse(deepcopy(stock), engine)
    expected, seen = gradients(stock, x), gradients(fused, x)
    torch.testing.assert_close(seen["output"], expected["output"], rtol=1e-9, atol=1e-10, equal_nan=True)
    for name, tensor in seen.items():
        assert torch.equal(tensor.isfinite(), expected[name].isfinite()), name
        finite = tensor.isfinite()
        torch.testing.assert_close(tensor[finite], expected[name][finite], rtol=1e-9, atol=1e-9)
    assert_ran(fused, engine)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_scales_of_zero_and_below(gamma, training, randomise, gradients, assert_ran, engine):
    stock = randomise(block()).double().train(training)
    for module in stock.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::2] = gamma
            module.bias.data[::3] = 0  # with a scale of zero exactly at the ReLU's corner, where the slope is 0
    fused = fuse(deepcopy(stock), engine)
    x = pixels(block, 0.0, 7).double()
    torch.testing.assert_close(gradients(fused, x), gradients(stock, x), rtol=1e-9, atol=1e-9)
    assert_ran(fused, engine)
