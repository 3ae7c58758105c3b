"""Forward and backward pass of a whole dense block over one buffer.

All features of a block lie in one matrix (P, C): a row per pixel, the block's input first, then every layer's new
channels. A layer reads the first columns and writes its own. Batch moments belong to a channel, not to a layer: they
are taken once and shared. Nothing normalised is kept for the backward pass, and what the moments take back from a
channel's gradient is summed over all layers that read it and applied once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from densekit.engine.block_backward import run_backward
from densekit.engine.calls import (
    Call,
    affine,
    convolve,
    growth,
    images,
    refuse_second_derivative,
    rows,
    statistics,
    without_autocast,
)
from densekit.engine.ops import accumulation_dtype
from densekit.engine.parts import Layer


def dense_block(call: Call, x: Tensor) -> Tensor:
    """Compute a dense block, (N, c, H, W) -> (N, C, H, W) in channels-last memory; differentiable once.

    Running statistics are left as they are: ``call.trained`` then holds what they are to be updated with.
    """
    parameters = [tensor for layer in call.layers for pair in layer for tensor in pair.parameters]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters)):
        return _DenseBlockFunction.apply(call, x, *parameters)  # pyright: ignore[reportReturnType]
    with torch.no_grad(), without_autocast(x):
        return run_forward(call, x, parameters, keep=False)[0]


class _DenseBlockFunction(Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, *parameters: Tensor) -> Tensor:
        with without_autocast(x):
            kept = run_forward(call, x, parameters, keep=True)
        ctx.call = call
        ctx.save_for_backward(*kept)
        return kept[0]

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> Any:
        (dout,) = douts
        with torch.no_grad(), without_autocast(dout):
            gradients = run_backward(ctx.call, ctx.saved_tensors, dout, ctx.needs_input_grad[1:])
        return None, *refuse_second_derivative(gradients)


def run_forward(call: Call, x: Tensor, parameters: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    """Return the block's output, (N, C, H, W) channels last, and behind it what the backward pass needs.

    Args:
        call: the block.
        x: (N, c, H, W).
        parameters: of all layers, one after the other.
        keep: whether there will be a backward pass; without one, only the output is returned.
    """
    N, c, H, W = x.shape
    channels = c + sum(map(growth, call.layers))
    dtype = torch.promote_types(x.dtype, call.dtype)
    out = torch.empty((N, channels, H, W), dtype=dtype, device=x.device, memory_format=torch.channels_last)
    out[:, :c].copy_(x)
    features = rows(out)  # (P, C)
    moments = torch.empty(2, channels, dtype=accumulation_dtype(dtype), device=x.device)
    measured, kept, remaining = 0, [out, moments], iter(parameters)
    for layer in call.layers:
        if layer[0].trains:
            moments[0, measured:c], moments[1, measured:c] = call.ops.batch_moments(features[:, measured:c])
            measured = c
        own = [next(remaining) for _ in range(3 * len(layer))]
        new, saved = _layer_forward(call, layer, own, features[:, :c], moments[:, :c], out, keep)
        out[:, c : c + growth(layer)] = new
        c += growth(layer)
        kept += saved
    return kept if keep else [out]


def _layer_forward(
    call: Call, layer: Layer, parameters: list[Tensor], x: Tensor, moments: Tensor, like: Tensor, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return a layer's new channels as images, and its part of what is kept.

    Args:
        call: the block.
        layer: which of its layers.
        parameters: of the layer.
        x: (P, c), the features so far.
        moments: (2, c), their batch means and variances, if the layer's norm trains.
        like: images of the right size.
        keep: whether there will be a backward pass.
    """
    ops, dtype = call.ops, call.dtype
    mean, var = statistics(call, layer[0], lambda: (moments[0], moments[1]))
    norm = affine(parameters[0], parameters[1], mean, var, layer[0].eps)
    saved = [*parameters, mean, var]
    if len(layer) == 1:
        activated = ops.bnrelu(x, norm.scale, norm.shift, out=torch.empty_like(x, dtype=dtype))
        return convolve(images(activated, like), parameters[2].to(dtype)), saved
    weight = parameters[2].to(dtype).flatten(1)  # (m, c)
    if keep or layer[1].trains:
        z = ops.bnrelu_product(x, norm.scale, norm.shift, weight)  # (P, m)
        mean, var = statistics(call, layer[1], lambda: ops.batch_moments(z))
        saved += [z, mean, var]
        norm = affine(parameters[3], parameters[4], mean, var, layer[1].eps)
        activated = ops.bnrelu(z, norm.scale, norm.shift, out=torch.empty_like(z) if keep else z)
    else:
        mean, var = statistics(call, layer[1], lambda: (moments[0], moments[1]))
        norm2 = affine(parameters[3], parameters[4], mean, var, layer[1].eps)
        activated = ops.bnrelu_product_bnrelu(x, norm.scale, norm.shift, weight, norm2.scale, norm2.shift)
    return convolve(images(activated, like), parameters[5].to(dtype)), saved
