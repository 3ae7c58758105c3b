"""A fused network against the stock one in float64: logits, gradients and running statistics over three steps."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torchvision.models.densenet import DenseNet as TorchvisionDenseNet

from densekit.engine.fused_block import Fused
from densekit.engine.ops import TorchOps
from densekit.engine.ops_cpu import CompiledOps
from densekit.engine.swap import fuse, unfuse
from densekit.models.densenet import DenseNet

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def torchvisions(**options) -> nn.Module:
    return TorchvisionDenseNet(**{"growth_rate": 6, "block_config": (2, 3, 2), "bn_size": 2, **options})


def timms(**options) -> nn.Module:
    return timm.models.densenet.DenseNet(growth_rate=6, block_config=(2, 3, 2), bn_size=2, num_classes=5, **options)


def monais(spatial_dims: int = 2) -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    options = {"growth_rate": 6, "block_config": (2, 3, 2), "bn_size": 2, "init_features": 10}
    return nets.DenseNet(spatial_dims, in_channels=3, out_channels=5, **options)


def sharing(**options) -> nn.Module:
    """torchvision's, whose layers of a block share their second norm: its statistics see a batch several times."""
    model = torchvisions(**options)
    for block in (module for module in model.modules() if isinstance(module, nn.ModuleDict)):
        first, *others = block.values()
        for layer in others:
            layer.norm2 = first.norm2
    return model


def train(model: nn.Module) -> None:
    model.train()


def evaluate(model: nn.Module) -> None:
    model.eval()


def freeze_some(model: nn.Module) -> None:
    """Both norms, the first, the second, or none of a layer; and whole blocks through their neighbours."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    for i, norm in enumerate(norms):
        norm.train(i % 3 != 0 and i % 4 != 2)


def settings_per_layer(model: nn.Module) -> None:
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    for i, norm in enumerate(norms):
        norm.eps = 10 ** -(1 + i % 5)
        norm.momentum = (None, 0.0, 0.3, 1.0)[i % 4]


NETWORKS = {
    "torchvision": (torchvisions, {"num_init_features": 10}, (4, 3, 40, 40)),
    "memory_efficient": (torchvisions, {"memory_efficient": True, "num_init_features": 64}, (2, 3, 32, 32)),
    "growth_48": (torchvisions, {"growth_rate": 48, "num_init_features": 96, "block_config": (2, 2)}, (2, 3, 32, 32)),
    "odd_sizes": (torchvisions, {}, (3, 3, 49, 59)),
    "one_pixel_at_the_end": (torchvisions, {}, (3, 3, 16, 16)),
    "timm": (timms, {}, (2, 3, 40, 32)),
    "monai": (monais, {}, (2, 3, 40, 32)),
    "cifar_stem": (DenseNet, {"block_config": (2, 2, 3), "growth_rate": 5, "stem": "cifar"}, (2, 3, 11, 8)),
    "plain_layers": (DenseNet, {"block_config": (2, 3), "growth_rate": 5, "bn_size": None}, (2, 3, 36, 32)),
    "monai_volumes": (monais, {"spatial_dims": 3}, (2, 3, 24, 17, 20)),
    "plain_volumes": (
        DenseNet,
        {"block_config": (2, 2), "growth_rate": 5, "bn_size": None, "stem": "cifar", "spatial_dims": 3},
        (2, 3, 7, 5, 6),
    ),
    "shared_norms": (sharing, {}, (2, 3, 36, 32)),
    "max_pooling": (DenseNet, {"block_config": (2, 2), "growth_rate": 5, "pooling": "max"}, (2, 3, 36, 32)),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Let every step work through several tiles, the last one ragged, as it does on pictures of usual size."""
    for ops in (TorchOps, CompiledOps):
        monkeypatch.setattr(ops, "tile_values", 9_000)


MODES = [train, evaluate, freeze_some, settings_per_layer]


def assert_same_steps(stock: nn.Module, fused: nn.Module, size: tuple[int, ...]) -> None:
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) for model in (stock, fused)]
    for step in range(3):
        x, labels = torch.randn(size, dtype=torch.float64), torch.arange(size[0]) + step
        seen = []
        for model, optimizer in zip((stock, fused), optimizers, strict=True):
            optimizer.zero_grad()
            inputs = x.clone().requires_grad_()
            logits = model(inputs)
            nn.functional.cross_entropy(logits, labels % logits.shape[1]).backward()
            grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            optimizer.step()
            buffers = {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}
            seen.append({"logits": logits.detach(), "input": inputs.grad} | grads | buffers)
        torch.testing.assert_close(seen[1], seen[0], **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_three_training_steps_are_the_stock_ones(network, mode, randomise, assert_ran, engine):
    build, options, size = NETWORKS[network]
    stock = randomise(build(**options).double())
    fused = fuse(deepcopy(stock), engine)
    if "memory_efficient" in options:  # updates running statistics twice: no reference
        stock = build().double()
        stock.load_state_dict(fused.state_dict())
    mode(stock), mode(fused)
    assert_same_steps(stock, fused, size)
    assert_ran(fused, engine)
    assert sum(isinstance(module, Fused) for module in fused.modules()) >= 2


@pytest.mark.parametrize("network", ["torchvision", "timm", "cifar_stem", "plain_layers", "monai_volumes"])
@pytest.mark.parametrize("mode", [train, evaluate, freeze_some])
@torch.no_grad()
def test_outputs_without_gradients_are_the_stock_ones(network, mode, randomise, assert_ran, engine):
    build, options, size = NETWORKS[network]
    stock = randomise(build(**options).double())
    fused = fuse(deepcopy(stock), engine)
    mode(stock), mode(fused)
    x = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)
    assert_ran(fused, engine)


def test_densenet121_gives_torchvisions_logits_and_gradients(randomise, assert_ran, engine):
    """The whole network, once, at the smallest size; the other tests vary what this one holds fixed."""
    stock = randomise(torchvisions(growth_rate=32, block_config=(6, 12, 24, 16), bn_size=4).double())
    fused = fuse(deepcopy(stock), engine).eval()
    stock.eval()
    x = torch.randn(1, 3, 33, 33, dtype=torch.float64)
    seen = []
    for model in (stock, fused):
        logits = model(x)
        logits.square().mean().backward()
        seen.append({"logits": logits.detach()} | {n: p.grad for n, p in model.named_parameters()})
    scale = max(gradient.abs().max().item() for gradient in seen[0].values())
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-9, atol=1e-12 * scale)
    assert_ran(fused, engine)


@pytest.mark.parametrize("network", ["torchvision", "timm", "cifar_stem", "monai"])
def test_weights_travel_between_stock_and_fused(network, randomise, engine):
    build, options, size = NETWORKS[network]
    stock = randomise(build(**options).double()).eval()
    fused = fuse(build(**options).double(), engine).eval()
    assert list(fused.state_dict()) == list(stock.state_dict())
    fused.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    again = build(**options).double()
    again.load_state_dict(fused.state_dict(), strict=True)
    torch.testing.assert_close(again.eval()(x), stock(x), rtol=0, atol=0)
    torch.testing.assert_close(unfuse(fused)(x), stock(x), rtol=0, atol=0)
