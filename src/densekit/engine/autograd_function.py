"""A fused module's computation as one step of autograd's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from densekit.engine.calls import Call, without_autocast
from densekit.engine.fallback import can_run_fused

Backward = Callable[[Call[Any], Sequence[Tensor], Tensor, Sequence[bool]], list[Any]]
"""Takes a call, what the forward pass kept, the gradient of the output and which gradients are wanted; returns those of
the input and of each parameter, or None."""


class Passes(NamedTuple):
    """The passes of a fused module.

    Attributes:
        forward: of a call, the input, and whether there will be a backward pass: the output, and what that needs,
            the call's parameters among it. Running statistics are left as they are: ``call.trained`` then holds what
            they are to be updated with.
        backward: the backward pass; it does not modify what was kept.
        differentiable: the backward pass in operations that autograd can differentiate.
    """

    forward: Callable[..., tuple[Tensor, list[Tensor]]]
    backward: Backward
    differentiable: Backward


def run_passes(passes: Passes, call: Call[Any], x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Compute a fused module's output of ``x``, for a backward pass where one may follow.

    Args:
        passes: of what kind of module.
        call: the module.
        x: its input.
        parameters: those of ``call``, one after the other: autograd has to be given what gets a gradient.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters)):
        return _FusedFunction.apply(passes, call, x, *parameters)  # pyright: ignore[reportReturnType]
    with torch.no_grad(), without_autocast(x):
        return passes.forward(call, x, keep=False)[0]


class _FusedFunction(Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, call: Call[Any], x: Tensor, *parameters: Tensor) -> Tensor:
        with without_autocast(x):
            out, kept = passes.forward(call, x, keep=True)
        ctx.passes, ctx.call = passes, call
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> Any:
        (dout,), kept, passes = douts, ctx.saved_tensors, ctx.passes
        backward = passes.backward if can_run_fused(dout, kept[0]) else passes.differentiable
        with without_autocast(dout):
            return None, None, *backward(ctx.call, kept, dout, ctx.needs_input_grad[2:])
