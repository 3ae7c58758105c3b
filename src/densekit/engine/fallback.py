"""When the stock modules run instead: reasons in the call itself, such as its input, or tools that watch PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from densekit.models.checks import is_symbolic


def _what_stock_calls() -> tuple[Any, ...]:
    convolutions, norms = (nn.Conv2d, nn.Conv3d), (nn.BatchNorm2d, nn.BatchNorm3d)
    pooling = (nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool2d, nn.MaxPool3d)
    modules = [kind.forward for kind in (*convolutions, *norms, *pooling, nn.ReLU, nn.Sequential)]
    functions = (F.conv2d, F.conv3d, F.avg_pool2d, F.avg_pool3d, F.max_pool2d, F.max_pool3d, F.batch_norm, F.relu)
    return (*modules, *(kind._conv_forward for kind in convolutions), *functions, torch.cat)


_AS_IMPORTED = _what_stock_calls()


class Fallback(Exception):  # noqa: N818 (not an error: the stock modules compute the call)
    """The fused path cannot compute this call; the message says why."""


class UnsupportedInput(Fallback):
    """The reason lies in the call, not in the module: the stock modules compute it, or raise their own error."""


def is_plain(x: Any) -> bool:
    """Whether a tensor is just numbers in memory: no subclass, and no view that is negated when it is read."""
    return type(x) in (Tensor, nn.Parameter) and torch._C._has_storage(x) and not x.is_neg()


def check_call(x: Any) -> None:
    """Raise `UnsupportedInput` unless ``x`` is a plain batch, and no tool watches all modules."""
    if isinstance(x, torch.fx.Proxy) or is_symbolic(x):
        raise UnsupportedInput("the network is being traced")
    check_surroundings()
    if nn.modules.module._has_any_global_hook():
        raise UnsupportedInput("hooks on all modules")
    if _what_stock_calls() != _AS_IMPORTED:
        raise UnsupportedInput("PyTorch's own convolution, norm, ReLU, pooling, cat or Sequential was replaced")
    if not is_plain(x):
        raise UnsupportedInput(f"input of type {type(x).__name__}, not a plain dense tensor")
    if x.dim() not in (4, 5) or not x.is_floating_point():
        raise UnsupportedInput("input other than (N, C, H, W) or (N, C, D, H, W) of floating point")
    if x.device.type == "mps":
        raise UnsupportedInput("a device without float64, in which moments are joined")
    if x.numel() == 0 or x.is_meta:
        raise UnsupportedInput("an empty batch, or one without values")


def check_surroundings() -> None:
    """Raise `UnsupportedInput` where PyTorch transforms or records its operations: it would not see the fused steps."""
    if _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        raise UnsupportedInput("the network is being transformed by torch.func, or differentiated forwards")
    if torch._C._len_torch_dispatch_stack() > 0 and not all(map(_may_miss, _get_current_dispatch_mode_stack())):
        raise UnsupportedInput("a tool is looking at every operation")
    if torch._C._len_torch_function_stack() > 0 and not all(map(_may_miss, _get_current_function_mode_stack())):
        raise UnsupportedInput("a tool is looking at every function")


def _may_miss(mode: Any) -> bool:
    """Whether a mode may miss operations: densekit's own say so, and `torch.set_default_device`'s may."""
    return getattr(mode, "may_miss_operations", False) or isinstance(mode, DeviceContext)


def can_run_fused(*tensors: Tensor) -> bool:
    """Whether the fused steps may compute with these tensors here: nobody traces, transforms or differentiates them."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    try:
        check_surroundings()
    except UnsupportedInput:
        return False
    return all(map(is_plain, tensors))
