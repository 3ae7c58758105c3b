"""Forward and backward pass of a transition: BN, ReLU, 2x2 mean, 1x1 convolution, in this order.

The mean and the convolution are linear and commute, so the mean is taken first: a quarter of the arithmetic, and
nothing as large as the input is kept besides the input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from densekit.engine.by_autograd import bnrelu, convolve, gradients_by_autograd
from densekit.engine.calls import Call, pixels, statistics, without_autocast
from densekit.engine.norms import affine, moment_terms, norm_gradients
from densekit.engine.step_aside import can_run_fused
from densekit.engine.tile_steps import flat, kernels_like


def transition(call: Call, x: Tensor) -> Tensor:
    """Compute a transition, (N, C, H, W) -> (N, D, H // 2, W // 2) in channels-last memory.

    Running statistics are left as they are: ``call.trained`` then holds what they are to be updated with.
    """
    parameters = call.layers[0][0].parameters
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters)):
        return _TransitionFunction.apply(call, x, *parameters)  # pyright: ignore[reportReturnType]
    with torch.no_grad(), without_autocast(x):
        return _forward(call, x, parameters, keep=False)[0]


class _TransitionFunction(Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *parameters: Tensor) -> Tensor:
        with without_autocast(x):
            out, *kept = _forward(call, x, parameters, keep=True)
        ctx.call = call
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> Any:
        (dout,), kept = douts, ctx.saved_tensors
        backward = _backward if can_run_fused(dout, kept[0]) else _backward_by_autograd
        with without_autocast(dout):
            return None, *backward(ctx.call, kept, dout, ctx.needs_input_grad[1:])


def _forward(call: Call, x: Tensor, parameters: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    """Return the output and, behind it, what the backward pass needs."""
    (pair,) = call.layers[0]
    gamma, beta, weight = parameters
    features = pixels(x)
    moments = call.ops.batch_moments(flat(features)) if pair.trains else None
    mean, var = statistics(call, pair, moments, keep=keep)
    norm = affine(gamma, beta, mean, var, pair.stored.eps)
    pooled = call.ops.bnrelu_pool(features, norm.scale, norm.shift, call.dtype)  # (N, h, w, C)
    N, h, w, _ = pooled.shape
    # no view, so that what follows may work in place
    out = torch.empty(N, len(weight), h, w, dtype=pooled.dtype, device=pooled.device, memory_format=torch.channels_last)
    torch.mm(flat(pooled), weight.to(call.dtype).flatten(1).t(), out=flat(out.permute(0, 2, 3, 1)))
    return [out, x, gamma, beta, weight, mean, var]


def _backward(call: Call, kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of the input and of the three parameters; ``dout`` is (N, D, h, w)."""
    x, gamma, beta, weight, mean, var = kept
    (pair,) = call.layers[0]
    features = pixels(x)
    norm = affine(gamma, beta, mean, var, pair.stored.eps)
    mean = mean.to(norm.scale.dtype)
    dout = dout.permute(0, 2, 3, 1)  # (N, h, w, D)
    pooled = call.ops.bnrelu_pool(features, norm.scale, norm.shift, dout.dtype)
    dweight = kernels_like((dout.flatten(0, 2).t() @ flat(pooled)).to(weight.dtype), weight) if wanted[3] else None
    dpooled = dout @ weight.to(dout.dtype).flatten(1)
    gradient, sums = call.ops.bnrelu_pool_backward(dpooled, features, norm.scale, norm.shift, mean)
    d = flat(gradient)
    if pair.trains:
        call.ops.bn_gradient(d, flat(features), mean, norm.scale, moment_terms(sums, norm, len(d)), out=d)
    else:
        d.mul_(norm.scale)
    dgamma, dbeta = norm_gradients(sums, norm, gamma)
    gradient = gradient.permute(0, 3, 1, 2).to(features.dtype)
    return [gradient, dgamma, dbeta, dweight]


def _backward_by_autograd(call: Call, kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]) -> list[Any]:
    """As `_backward`, in operations that autograd knows."""
    (pair,) = call.layers[0]
    *inputs, mean, var = kept

    def compute(x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
        pooled = F.avg_pool2d(bnrelu(pair, x, gamma, beta, mean, var), 2)
        return convolve(pooled, weight, call.dtype)

    return gradients_by_autograd(compute, inputs, dout, wanted)
