"""Forward and backward pass of a transition: BN, ReLU, 2x2 mean, 1x1 convolution, in this order.

The mean and the convolution are linear and commute, so the mean is taken first: a quarter of the arithmetic, and
nothing as large as the input is kept besides the input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from densekit.engine.calls import (
    Call,
    affine,
    moment_terms,
    norm_gradients,
    refuse_second_derivative,
    rows,
    statistics,
    without_autocast,
)


def transition(call: Call, x: Tensor) -> Tensor:
    """Compute a transition, (N, C, H, W) -> (N, D, H // 2, W // 2) in channels-last memory; differentiable once.

    Running statistics are left as they are: ``call.trained`` then holds what they are to be updated with.
    """
    parameters = call.layers[0][0].parameters
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters)):
        return _TransitionFunction.apply(call, x, *parameters)  # pyright: ignore[reportReturnType]
    with torch.no_grad(), without_autocast(x):
        return _forward(call, x, parameters)[0]


class _TransitionFunction(Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *parameters: Tensor) -> Tensor:
        with without_autocast(x):
            out, *kept = _forward(call, x, parameters)
        ctx.call = call
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> Any:
        (dout,) = douts
        with torch.no_grad(), without_autocast(dout):
            gradients = _backward(ctx.call, ctx.saved_tensors, dout)
        return None, *refuse_second_derivative(gradients)


def _forward(call: Call, x: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the output and, behind it, what the backward pass needs."""
    (pair,) = call.layers[0]
    gamma, beta, weight = parameters
    x = x.contiguous(memory_format=torch.channels_last)
    mean, var = statistics(call, pair, lambda: call.ops.batch_moments(rows(x)))
    norm = affine(gamma, beta, mean, var, pair.eps)
    pooled = call.ops.bnrelu_pool(x.permute(0, 2, 3, 1), norm.scale, norm.shift, call.dtype)  # (N, h, w, C)
    out = (pooled @ weight.to(call.dtype).flatten(1).t()).permute(0, 3, 1, 2)
    return [out, x, gamma, beta, weight, mean, var]


def _backward(call: Call, kept: Sequence[Tensor], dout: Tensor) -> list[Tensor | None]:
    """Return the gradients of the input and of the three parameters; ``dout`` is (N, D, h, w)."""
    x, gamma, beta, weight, mean, var = kept
    (pair,) = call.layers[0]
    norm = affine(gamma, beta, mean, var, pair.eps)
    mean = mean.to(norm.scale.dtype)
    dout = dout.permute(0, 2, 3, 1)  # (N, h, w, D)
    dpooled = dout @ weight.to(dout.dtype).flatten(1)
    gradient, total, weighted, pooled = call.ops.bnrelu_pool_backward(
        dpooled, x.permute(0, 2, 3, 1), norm.scale, norm.shift, mean
    )
    dweight = dout.flatten(0, 2).t() @ pooled.flatten(0, 2)
    d = gradient.flatten(0, 2)  # (P, C)
    if pair.trains:
        terms = moment_terms(total, weighted, norm, len(d))
        call.ops.bn_gradient(d, rows(x), mean, *terms, out=d, scale=norm.scale)
    else:
        d.mul_(norm.scale)
    dgamma, dbeta = norm_gradients(total, weighted, norm, gamma)
    return [gradient.permute(0, 3, 1, 2).to(x.dtype), dgamma, dbeta, dweight.view_as(weight).to(weight.dtype)]
