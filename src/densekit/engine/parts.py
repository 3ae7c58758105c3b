"""What a stock dense block or transition is made of, and why a fused one may have to step aside.

Only modules whose mathematics is known are read: exactly these classes, none derived from them, with nothing that a
user hung on the inside (hooks, parametrisations, a replaced ``forward``).
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from densekit.engine.norms import Norm
from densekit.engine.row_steps import accumulation_dtype
from densekit.models.checks import is_symbolic

BLOCKS = {
    "densekit.models.dense_block.DenseBlock",
    "torchvision.models.densenet._DenseBlock",
    "timm.models.densenet.DenseBlock",
    "monai.networks.nets.densenet._DenseBlock",
}
TRANSITIONS = {
    "densekit.models.dense_block.Transition",
    "torchvision.models.densenet._Transition",
    "timm.models.densenet.DenseTransition",
    "monai.networks.nets.densenet._Transition",
}
_LAYERS = {
    "densekit.models.dense_block.DenseLayer",
    "torchvision.models.densenet._DenseLayer",
    "timm.models.densenet.DenseLayer",
    "monai.networks.nets.densenet._DenseLayer",
}
_HALF = (torch.float16, torch.bfloat16)


class StepAside(Exception):  # noqa: N818 (no error: the stock modules take over)
    """The fused path cannot compute this call; the message says why."""


class Unsupported(StepAside):
    """Not this call only: what the module computes is not what the fused path computes."""


class OtherInput(StepAside):
    """Not the module but its input: the stock modules compute it, or say what is wrong with it."""


class Pair(NamedTuple):
    """A batch norm and the convolution behind its ReLU, as they stand at the time of the call.

    Read once: a look at a module's attribute takes longer than it seems, and there are hundreds in a network.
    """

    norm: nn.BatchNorm2d
    trains: bool
    stored: Norm
    weight: Tensor  # of the convolution

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale and shift of the norm, weight of the convolution."""
        return self.stored.weight, self.stored.bias, self.weight


Layer = tuple[Pair, ...]
"""A dense layer: with a bottleneck a pair with a 1x1 and a pair with a 3x3 convolution, otherwise the latter alone."""


def qualified_name(module: nn.Module) -> str:
    """Return where a module's class is defined, e.g. ``"torch.nn.modules.linear.Linear"``."""
    return _name(type(module))


@cache
def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def read_block(block: nn.Module) -> list[Layer]:
    """Return the layers of a dense block.

    Raises:
        StepAside: something in it that the fused block does not compute.
    """
    layers = [_read_layer(layer) for layer in block.children()]
    if not layers:
        raise Unsupported("the block has no layers")
    return layers


def _read_layer(layer: nn.Module) -> Layer:
    if qualified_name(layer) not in _LAYERS:
        raise Unsupported(f"{type(layer).__name__} is no dense layer that it knows")
    _check_untouched(layer)
    children = _children(layer)
    if "layers" in children:  # MONAI keeps a layer's modules in a Sequential
        _check_untouched(children["layers"])
        children = _children(children["layers"])
    dropout = children.pop("dropout", None)  # MONAI's; the others have a rate
    drop_rate: Any = getattr(layer, "drop_rate", 0.0)
    drops = layer.training and drop_rate > 0
    if drops or (dropout is not None and dropout.training):
        raise StepAside("dropout while training")
    if type(children.pop("se", None)) not in (type(None), nn.Identity):
        raise Unsupported("squeeze-and-excitation")
    if "norm2" in children:
        pairs = (_read_pair(children, "1", size=1), _read_pair(children, "2", size=3))
    else:
        pairs = (_read_pair(children, "1", size=3),)
    if children:
        raise Unsupported(f"a dense layer with {', '.join(children)}")
    return pairs


def read_transition(transition: nn.Module) -> Pair:
    """Return the norm and the 1x1 convolution of a transition that averages 2x2 pixels.

    Raises:
        StepAside: something in it that the fused transition does not compute.
    """
    children = _children(transition)
    pair = _read_pair(children, "", size=1)
    pool = children.pop("pool", None)
    if type(pool) is not nn.AvgPool2d or children:
        raise Unsupported("a transition that does not end in plain average pooling")
    _check_untouched(pool)
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.divisor_override)
    if settings != (2, 2, 0, False, None):
        raise Unsupported("average pooling of other than 2x2 pixels")
    return pair


def _read_pair(children: dict[str, nn.Module], number: str, *, size: int) -> Pair:
    """Take norm, activation and convolution out of ``children``."""
    norm, conv = children.pop(f"norm{number}", None), children.pop(f"conv{number}", None)
    act: Any = children.pop(f"relu{number}", None)
    if act is None and norm is not None and qualified_name(norm) == "timm.layers.norm_act.BatchNormAct2d":
        act = norm.act
        if type(norm.drop) is not nn.Identity:
            raise Unsupported("a norm that drops")
    elif type(norm) is not nn.BatchNorm2d:
        raise Unsupported(f"{type(norm).__name__} in the place of BatchNorm2d")
    if type(act) is not nn.ReLU:
        raise Unsupported(f"{type(act).__name__} in the place of ReLU")
    if type(conv) is not nn.Conv2d:
        raise Unsupported(f"{type(conv).__name__} in the place of Conv2d")
    assert isinstance(norm, nn.BatchNorm2d)
    for module in (norm, act, conv):
        _check_untouched(module)
    _check_convolution(conv, size)
    mean, var = norm.running_mean, norm.running_var
    if not norm.affine or mean is None or var is None:
        raise Unsupported("a batch norm without scale and shift, or without running statistics")
    if norm.eps <= 0:
        raise StepAside(f"a batch norm with eps {norm.eps}")
    return Pair(norm, norm.training, Norm(norm.weight, norm.bias, mean, var, norm.eps), conv.weight)


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a module by name; one that stands under two names, under both."""
    return {name: child for name, child in module._modules.items() if child is not None}


def _check_untouched(module: nn.Module) -> None:
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        raise StepAside("hooks on its inner modules")
    if "parametrizations" in own["_modules"]:
        raise StepAside("parametrised weights")
    if "forward" in own:
        raise StepAside("an inner module whose forward was replaced")


def _check_convolution(conv: nn.Conv2d, size: int) -> None:
    if conv.groups != 1:
        raise Unsupported("grouped convolutions")
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode, conv.bias)
    if settings != ((size, size), (1, 1), (size // 2, size // 2), (1, 1), "zeros", None):
        raise Unsupported(f"a {size}x{size} convolution with bias, stride, dilation or other padding")


def _is_plain(x: Any) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided


def check_call(x: Any) -> None:
    """Raise `OtherInput` unless ``x`` is an ordinary (N, C, H, W) batch and no tool is looking at every module."""
    if isinstance(x, torch.fx.Proxy) or is_symbolic(x):
        raise OtherInput("the network is being traced")
    if _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        raise OtherInput("the network is being transformed by torch.func, or differentiated forwards")
    if torch._C._len_torch_dispatch_stack() > 0 and not all(
        getattr(mode, "may_miss_operations", False) for mode in _get_current_dispatch_mode_stack()
    ):
        raise OtherInput("a tool is looking at every operation")
    if nn.modules.module._has_any_global_hook():
        raise OtherInput("hooks on all modules")
    if not _is_plain(x):
        raise OtherInput(f"input of type {type(x).__name__}, not a plain dense tensor")
    if x.dim() != 4 or not x.is_floating_point():
        raise OtherInput("input other than (N, C, H, W) of floating point")
    if x.device.type == "mps":
        raise OtherInput("a device without float64, in which moments are joined")
    if x.numel() == 0 or x.is_meta:
        raise OtherInput("an empty batch, or one without values")


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which convolutions of ``x`` run: autocast's, where that is on and applies."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def check_pair(pair: Pair, x: Tensor, channels: int, dtype: torch.dtype) -> int:
    """Check that a norm and its convolution can take ``channels`` channels of ``dtype`` made from ``x``.

    Returns:
        The channels that the convolution makes.

    Raises:
        OtherInput: they cannot, so that the stock modules shall say what is wrong.
        ValueError: one value per channel in training, as stock PyTorch raises it.
    """
    weight, vectors, device = pair.weight, pair.stored[:4], x.device
    if {tensor.shape for tensor in vectors} != {(channels,)} or weight.shape[1] != channels:
        raise OtherInput("channels that do not fit")
    if not all(map(_is_plain, (*vectors, weight))):
        raise OtherInput("weights that are no plain dense tensors")
    if {tensor.device for tensor in (*vectors, weight)} != {device}:
        raise OtherInput("input and weights on different devices")
    compute = compute_dtype(x)
    cast = compute != x.dtype or torch.is_autocast_enabled(device.type)
    castable = cast and weight.dtype in (torch.float32, *_HALF)
    if weight.dtype != compute and not castable:
        raise OtherInput("input and weights of different types")
    if not {tensor.dtype for tensor in vectors} <= {dtype, accumulation_dtype(dtype)}:
        raise OtherInput("input and batch norms of different types")
    if pair.trains and x.numel() == x.shape[1]:
        size = torch.Size([1, channels, 1, 1])
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    return weight.shape[0]
