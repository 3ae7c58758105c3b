"""Small DenseNets, and what a training step makes of them."""

import os
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet, _DenseBlock

from densekit.engine.choose_ops import choose_ops
from densekit.engine.fused_block import Fused
from densekit.engine.ops import TorchOps
from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # in the process of test_triton_interpreter


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["triton"] if INTERPRETED else ["torch", "cpu"])
def engine(request) -> str:
    """Each implementation of the fused steps that runs on a CPU: in Triton's interpreter, Triton's alone."""
    return request.param


TILES = {"one_tile": 1 << 18} if INTERPRETED else {"one_tile": 1 << 18, "ragged_tiles": 60, "tiny_tiles": 7}


@pytest.fixture(params=TILES.values(), ids=TILES)
def ops(request, engine, monkeypatch) -> TorchOps:
    """The steps of each implementation, over one tile and over many."""
    ops = choose_ops(engine, "cpu").ops
    monkeypatch.setattr(type(ops), "tile_values", request.param)
    return ops


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Give every batch norm scales of both signs, shifts and running statistics of its own."""

    def randomise(model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.weight.data.uniform_(-0.5, 1.5)
                for tensor in (module.bias.data, module.running_mean):
                    tensor.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
        return model

    return randomise


@pytest.fixture
def small_network(randomise) -> nn.Module:
    """torchvision's DenseNet, reduced, in float64."""
    model = DenseNet(growth_rate=6, block_config=(2, 3), num_init_features=10, num_classes=4, bn_size=2)
    return randomise(model.double())


@pytest.fixture
def small_block(randomise) -> nn.Module:
    """torchvision's dense block of three layers, 10 -> 28 channels, in float64."""
    return randomise(_DenseBlock(3, 10, bn_size=2, growth_rate=6, drop_rate=0.0).double())


@pytest.fixture
def stock(build, randomise) -> nn.Module:
    """What the test's `build` makes, in float64."""
    return randomise(build().double())


@pytest.fixture
def fused(stock, engine) -> nn.Module:
    """Its fused copy."""
    return fuse(deepcopy(stock), engine)


@pytest.fixture
def pair(randomise) -> tuple[nn.Module, nn.Module]:
    """A stock network of stem, block, transition, block, and its fused copy."""
    stock = nn.Sequential(
        nn.Conv2d(3, 10, 3), DenseBlock(2, 10, 6, bn_size=2), Transition(22, 8), DenseBlock(2, 8, 6, bn_size=2)
    )
    stock = randomise(stock.double())
    return stock, fuse(deepcopy(stock))


@pytest.fixture
def assert_ran() -> Callable[..., None]:
    """Assert what computed the last call of every fused module."""

    def assert_ran(model: nn.Module, what: str) -> None:
        ran = [module.ran for module in model.modules() if isinstance(module, Fused)]
        assert ran
        assert {str(name).startswith(what) for name in ran} == {True}, ran

    return assert_ran


@pytest.fixture
def gradients() -> Callable[..., dict[str, Tensor]]:
    """Run a module forward and backward; return its output and every gradient."""

    def gradients(model: nn.Module, x: Tensor, dy: Tensor | None = None) -> dict[str, Tensor]:
        model.zero_grad()
        x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = model(x)
        dy = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y) if dy is None else dy
        y.backward(dy.to(y.dtype))
        named = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is not None for gradient in (x.grad, *named.values()))
        return {"output": y.detach(), "input": x.grad, **named}

    return gradients


@pytest.fixture
def errors() -> Callable[..., dict[str, float]]:
    """Return the distance from the truth of each kind of tensor, all layers together, relative to its size."""

    def errors(seen: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
        sums = {}
        for name, tensor in seen.items():
            kind = "conv" if "conv" in name else "scale" if name.endswith("weight") else name.rpartition(".")[2]
            wrong, size = sums.get(kind, (0.0, 0.0))
            difference = tensor.double() - truth[name]
            sums[kind] = (wrong + difference.square().sum().item(), size + truth[name].square().sum().item())
        return {kind: (wrong / size) ** 0.5 for kind, (wrong, size) in sums.items()}

    return errors
