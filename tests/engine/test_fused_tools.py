"""Compilers, exporters, transforms and whatever else looks at a network from above see the stock modules."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from densekit.engine.choose_ops import choose_ops
from densekit.engine.swap import fuse

AUTO = choose_ops("auto", "cpu").name
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (2, 3, 9, 8)), dtype=torch.float64)


def test_a_hook_on_all_modules_sees_every_module(pair):
    _, fused = pair
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        seen = []
        fused(pictures())
        assert fused[1].denselayer2.conv2 in seen
    finally:
        handle.remove()
    assert fused[1].ran == "stock: hooks on all modules"
    fused(pictures())
    assert fused[1].ran == AUTO


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiles_in_one_graph(pair, training):
    stock, fused = (model.train(training) for model in pair)
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    x = pictures()
    torch.testing.assert_close(compiled(x), stock(x), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non_strict"])
def test_exports(pair, strict):
    stock, fused = (model.eval() for model in pair)
    program = torch.export.export(fused, (pictures(),), strict=strict)
    assert set(program.state_dict) == set(stock.state_dict())
    x = pictures()
    torch.testing.assert_close(program.module()(x), stock(x), **CLOSE)


def test_fx_traces_through_to_the_stock_modules(pair):
    stock, fused = (model.eval() for model in pair)
    traced = torch.fx.symbolic_trace(fused)
    assert "1.denselayer2.conv1" in {node.target for node in traced.graph.nodes}
    x = pictures()
    torch.testing.assert_close(traced(x), stock(x), **CLOSE)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_jit_traces_through_to_the_stock_modules(pair):
    stock, fused = (model.eval() for model in pair)
    traced = torch.jit.trace(fused, (pictures(),))
    x = pictures(3, 3, 12, 11)
    torch.testing.assert_close(traced(x), stock(x), **CLOSE)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which PyTorch's own derivatives are made with
def test_transforms_of_torch_func_run_the_stock_modules(pair):
    stock, fused = (model.eval() for model in pair)
    x, func = pictures(), torch.func
    mapped = func.vmap(lambda one: fused(one[None])[0])(x)
    torch.testing.assert_close(mapped, stock(x), **CLOSE)
    assert fused[1].ran.startswith("stock: the network is being transformed by torch.func")

    def both(transform):
        seen, expected = (transform(model) for model in (fused, stock))
        torch.testing.assert_close(seen, expected, **CLOSE)

    parameters = dict(stock.named_parameters())
    both(lambda model: func.grad(lambda p: func.functional_call(model, p, (x,)).square().sum())(parameters))
    both(lambda model: func.jvp(model, (x,), (x.flip(0),)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "learning"])
def test_forward_mode_derivatives_are_stocks(pair, frozen):
    x, tangents = pictures(), []
    for model in pair:
        model.requires_grad_(not frozen)
        with forward_ad.dual_level():
            out = model(forward_ad.make_dual(x, torch.ones_like(x)))
            tangents.append(forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(tangents[1], tangents[0], **CLOSE)


def test_traced_operation_by_operation(pair):
    stock, fused = (model.eval().requires_grad_(False) for model in pair)
    x = pictures()
    graph = make_fx(fused)(x)
    assert fused[1].ran == "stock: a tool is looking at every operation"
    torch.testing.assert_close(graph(2 * x), stock(2 * x), **CLOSE)


class Listing(TorchDispatchMode):
    """Notes which operations run, without being in the fused path's way."""

    may_miss_operations = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen = {*getattr(self, "seen", ()), func.overloadpacket.__name__}
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is of GPUs, and there is none")
def test_on_a_gpu_products_are_the_convolutions_that_stock_has(pair):
    """PyTorch's settings of precision are not the same for others: TF32 is its choice for convolutions alone."""
    fused = fuse(pair[1].cuda(), "torch")
    with Listing() as listing:
        fused(pictures().cuda()).sum().backward()
        with torch.no_grad():
            fused.eval()(pictures().cuda())
    assert {"convolution", "convolution_backward"} <= listing.seen
    assert not {name for name in listing.seen if "mm" in name or name in ("linear", "einsum", "dot", "mv")}
    assert fused[1].ran == fused[2].ran == "torch"


class Rounding(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out.round(decimals=1) if func is nn.functional.conv2d else out


def test_a_mode_that_looks_at_functions(pair):
    stock, fused = pair
    x = pictures()
    with Rounding():
        seen, expected = fused(x), stock(x)
    torch.testing.assert_close(seen, expected, **CLOSE)
    assert fused[1].ran == "stock: a tool is looking at every function"
