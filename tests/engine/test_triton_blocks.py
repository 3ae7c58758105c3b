"""Blocks and transitions with the Triton kernels against stock ones: on a GPU, or in Triton's interpreter on the CPU.

As `test_ops_triton`, this file is run by `test_triton_interpreter` where there is no GPU.
"""

import os
from collections.abc import Callable
from copy import deepcopy
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0)):
    reason = "no GPU of compute capability 8.0; test_triton_interpreter runs this file on the CPU"
    pytest.skip(reason, allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
HALF = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
DRAWS = 3
SHIFT = 4.0
"""Of norms, up or down: no ReLU is then near its corner, where rounding would turn it in one of two networks only,
which outweighs all other errors. What is left is compared by the median of some draws."""


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """No TF32 in stock convolutions, nor in what replaces them."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def network(randomise) -> Callable[..., nn.Sequential]:
    """Build a block and a transition, (N, 16, H, W) -> (N, 24, H // 2, W // 2), behind other modules."""

    def network(*modules: nn.Module, spatial_dims: int = 2) -> nn.Sequential:
        block = DenseBlock(2, 16, 16, bn_size=2, spatial_dims=spatial_dims)
        model = randomise(nn.Sequential(*modules, block, Transition(48, 24, spatial_dims=spatial_dims)))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.bias.data.copy_(torch.where(torch.rand_like(module.bias) < 0.25, -SHIFT, SHIFT))
        return model.to(DEVICE)

    return network


def pixels(*size: int) -> Tensor:
    layout = torch.channels_last if len(size) == 4 else torch.channels_last_3d
    return torch.randn(size, device=DEVICE).to(memory_format=layout)


def assert_no_worse(errors: list[list[dict[str, float]]]) -> None:
    """Compare errors of fused networks with those of stock ones, or with a few roundings of float32."""
    for kind in errors[0][0]:
        times = [of_fused[kind] / max(of_stock[kind], 4e-7) for of_fused, of_stock in errors]
        assert median(times) <= 1.2, (kind, times)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_errors_are_those_of_stock(dtype, training, network, gradients, errors, assert_ran):
    """Forward and backward, against float64."""
    seen = []
    for _ in range(DRAWS):
        stock = network().train(training).to(dtype)
        x, dy = pixels(3, 16, 9, 8).to(dtype), pixels(3, 24, 4, 4) / 100  # float16 overflows at 65,504
        truth = gradients(deepcopy(stock).double(), x.double(), dy.double())
        truth["inferred"] = truth["output"]
        fused = fuse(deepcopy(stock), "triton")
        both = []
        for model in (fused, stock):
            results = gradients(model, x, dy)
            with torch.no_grad():
                both.append({**results, "inferred": model(x)})
        assert_ran(fused, "triton")
        of_fused, of_stock = both
        assert {n: tensor.dtype for n, tensor in of_fused.items()} == {n: t.dtype for n, t in of_stock.items()}
        for one, other in zip(fused.buffers(), stock.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-2)
        seen.append([errors(results, truth) for results in both])
    assert_no_worse(seen)


@pytest.mark.parametrize("stem", [False, True], ids=["given_float32", "behind_a_convolution"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradients_in_mixed_precision(dtype, stem, network, gradients, errors, assert_ran):
    """Autocast, with features in float32 and in a half type, and a scaled loss."""
    seen = []
    for _ in range(DRAWS):
        stock = network(*([nn.Conv2d(16, 16, 1, bias=False)] if stem else []))
        x, dy = pixels(3, 16, 9, 8), pixels(3, 24, 4, 4) / 100
        truth = gradients(deepcopy(stock).double(), x.double(), dy.double())
        fused = fuse(deepcopy(stock), "triton")
        both = []
        for model in (fused, stock):
            scaler, optimizer = torch.amp.GradScaler(DEVICE, init_scale=256.0), torch.optim.SGD(model.parameters())
            with torch.autocast(DEVICE, dtype):
                y = model(x)
            assert y.dtype == dtype
            scaler.scale((y.float() * dy).sum()).backward()
            scaler.unscale_(optimizer)
            named = {name: parameter.grad for name, parameter in model.named_parameters()}
            both.append(errors({"output": y.detach(), **named}, truth))
        assert_ran(fused, "triton")
        seen.append(both)
    assert_no_worse(seen)


@pytest.mark.parametrize("value", [1e30, torch.nan])
def test_a_gradient_scaler_sees_what_overflows(value, network):
    model = fuse(network(), "triton")
    before = deepcopy(model.state_dict())
    scaler, optimizer = torch.amp.GradScaler(DEVICE, init_scale=1024.0), torch.optim.SGD(model.parameters())
    with torch.autocast(DEVICE, torch.float16):
        y = model(pixels(2, 16, 6, 6))
    scaler.scale((y.float() * value).mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_errors_on_volumes_are_those_of_stock(network, gradients, errors, assert_ran):
    seen = []
    for _ in range(DRAWS):
        stock = network(spatial_dims=3)
        x, dy = pixels(2, 16, 5, 6, 4), pixels(2, 24, 2, 3, 2)
        truth = gradients(deepcopy(stock).double(), x.double(), dy.double())
        fused = fuse(deepcopy(stock), "triton")
        seen.append([errors(gradients(model, x, dy), truth) for model in (fused, stock)])
        assert_ran(fused, "triton")
    assert_no_worse(seen)


def test_float64_is_exact(network, gradients, assert_ran):
    stock = network().double()
    x = pixels(2, 16, 7, 6).double()
    fused = fuse(deepcopy(stock), "triton")
    torch.testing.assert_close(gradients(fused, x), gradients(stock, x), rtol=1e-9, atol=1e-10)
    assert_ran(fused, "triton")
