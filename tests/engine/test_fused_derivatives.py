"""What the fused backward pass leaves to PyTorch's own operations: derivatives of gradients, tools that look at it."""

from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def bottleneck_block() -> nn.Module:
    return DenseBlock(3, 10, 6, bn_size=2)


def stem() -> nn.Module:
    parts = {"norm0": nn.BatchNorm2d(10), "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, stride=2, padding=1)}
    return nn.Sequential(OrderedDict(parts))


def volume_stem() -> nn.Module:
    parts = {"norm0": nn.BatchNorm3d(10), "relu0": nn.ReLU(), "pool0": nn.MaxPool3d(3, stride=2, padding=1)}
    return nn.Sequential(OrderedDict(parts))


BUILDERS = pytest.mark.parametrize(
    "build",
    [lambda: DenseBlock(3, 10, 6, bn_size=None), bottleneck_block, lambda: Transition(10, 6), stem],
    ids=["plain_block", "bottleneck_block", "transition", "stem"],
)


def pictures() -> torch.Tensor:
    return torch.randn(3, 10, 6, 5, dtype=torch.float64)


def again(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Second derivatives by the loss, by the gradient of the input and by that of the weights, of all there is."""
    weights = list(model.parameters())
    seen = []
    for loss in (lambda y: y.square().sum(), lambda y: y.sum()):  # the second has no curvature of its own
        for first in ([x], weights):
            gradients = torch.autograd.grad(loss(model(x)), first, create_graph=True)
            penalty = sum(gradient.square().sum() for gradient in gradients)
            seen += torch.autograd.grad(penalty, [x, *weights], materialize_grads=True)
    return seen


@BUILDERS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_second_derivatives(stock, fused, training, assert_ran, engine):
    x, seen = pictures().requires_grad_(), []
    for model in (stock.train(training), fused.train(training)):
        seen.append(again(model, x))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-8, atol=1e-7)  # of hundreds; some are zero but for rounding
    assert_ran(fused, engine)


@pytest.mark.parametrize(
    "build",
    [lambda: DenseBlock(2, 10, 6, bn_size=2, spatial_dims=3), lambda: Transition(10, 6, spatial_dims=3), volume_stem],
    ids=["block", "transition", "stem"],
)
def test_second_derivatives_of_volumes(stock, fused, assert_ran, engine):
    x, seen = torch.randn(2, 10, 4, 5, 3, dtype=torch.float64, requires_grad=True), []
    for model in (stock, fused):
        seen.append(again(model, x))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-8, atol=1e-7)
    assert_ran(fused, engine)


@pytest.mark.parametrize("build", [lambda: Transition(10, 6, spatial_dims=3), volume_stem], ids=["transition", "stem"])
def test_autocast_volumes_by_autograd(build, randomise, engine):
    """In half types PyTorch has no means of volumes on a CPU."""
    stock = randomise(build())
    x, seen = torch.randn(2, 10, 4, 5, 3).bfloat16().requires_grad_(), []
    for model in (stock, fuse(deepcopy(stock), engine)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().sum()
        seen.append(torch.autograd.grad(loss, [x, *model.parameters()], create_graph=True))
    torch.testing.assert_close(seen[1], seen[0], rtol=0.05, atol=0.05)


@BUILDERS
def test_second_derivatives_of_some_weights_alone(stock, fused):
    """Neither the input nor the other weights want any: what goes on into them must not be waited for."""
    x, seen = pictures(), []
    for model in (stock, fused):
        model.requires_grad_(False)
        *_, last = [p for p in model.parameters() if p.dim() == 4] or model.parameters()
        last.requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).pow(3).sum(), last, create_graph=True)
        seen += torch.autograd.grad(gradient.square().sum(), last)
    torch.testing.assert_close(seen[1], seen[0], **CLOSE)


@BUILDERS
def test_second_derivatives_in_bfloat16_are_near(stock, fused, engine, assert_ran):
    x, seen = pictures().float().requires_grad_(), []
    for model in (stock.float(), fused.float()):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        seen += torch.autograd.grad(gradient.square().sum(), x)
    assert (seen[1] - seen[0]).norm() < 0.1 * seen[0].norm()
    assert_ran(fused, engine)


def batched(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    ways = torch.stack([torch.ones_like(y), torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)])
    return torch.autograd.grad(y, x, ways, is_grads_batched=True)[0]


def forwards(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), y.detach()))
        return forward_ad.unpack_dual(gradient).tangent


def traced(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    graph = make_fx(lambda dy: torch.autograd.grad(y, x, dy, retain_graph=True)[0])(torch.ones_like(y))
    return graph(y.detach())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which PyTorch's own derivatives are made with
@BUILDERS
@pytest.mark.parametrize("backward", [batched, forwards, traced])
def test_tools_around_the_backward_pass_alone(stock, fused, backward):
    x = pictures().requires_grad_()
    seen = [backward(model(x), x) for model in (stock, fused)]
    torch.testing.assert_close(seen[1], seen[0], **CLOSE)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own look
@pytest.mark.parametrize("build", [bottleneck_block])
def test_a_compiled_backward_pass(stock, fused):
    """Autograd of the compiler's: it has no numbers yet when it asks for gradients."""
    x, seen = pictures(), []
    for model in (stock, fused):
        inputs = x.clone().requires_grad_()
        with torch._dynamo.config.patch(compiled_autograd=True):
            torch.compile(lambda loss: loss.backward(), backend="eager")(model(inputs).square().sum())
        seen.append([inputs.grad, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(seen[1], seen[0], **CLOSE)
