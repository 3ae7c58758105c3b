"""Forward and backward pass of a whole dense block over one buffer.

All features of a block lie in one matrix (P, C): a row per pixel, the block's input first, then every layer's new
channels. A layer reads the first columns and writes its own. Batch moments belong to a channel, not to a layer: they
are taken once and shared. Nothing normalised is kept for the backward pass, and what the moments take back from a
channel's gradient is summed over all layers that read it and applied once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from densekit.engine.block_backward import backward_by_autograd, run_backward
from densekit.engine.calls import Call, growth, pixels, statistics, without_autocast
from densekit.engine.norms import Norm, affine
from densekit.engine.ops import Bottleneck
from densekit.engine.parts import Layer
from densekit.engine.row_steps import accumulation_dtype
from densekit.engine.step_aside import can_run_fused
from densekit.engine.tile_steps import flat


def dense_block(call: Call, x: Tensor) -> Tensor:
    """Compute a dense block, (N, c, H, W) -> (N, C, H, W) in channels-last memory.

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
        (dout,), kept = douts, ctx.saved_tensors
        backward = run_backward if can_run_fused(dout, kept[0]) else backward_by_autograd
        with without_autocast(dout):
            return None, *backward(ctx.call, kept, dout, ctx.needs_input_grad[1:])


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
    # no view, so that what follows may work in place (without gradients: they need it as it is)
    out = torch.empty(N, channels, H, W, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    features = out.permute(0, 2, 3, 1)
    moments = torch.empty(2, channels, dtype=accumulation_dtype(dtype), device=x.device)
    measured = max((number for number, layer in enumerate(call.layers) if layer[0].trains), default=-1)
    if measured >= 0:  # otherwise no norm asks for the moments of the input
        moments[:, :c] = call.ops.batch_moments(flat(pixels(x)).to(dtype), out=flat(features[..., :c]))
    else:
        features[..., :c] = x.permute(0, 2, 3, 1)
    kept, remaining = [out, moments], iter(parameters)
    for number, layer in enumerate(call.layers):
        own = [next(remaining) for _ in range(3 * len(layer))]
        stop = c + growth(layer)
        mean, var = statistics(call, layer[0], moments[:, :c], keep=keep)
        step = _Step(call, layer, features[..., :c], features[..., c:stop], measure=number < measured)
        saved, seen = step.run(own, mean, var, keep=keep)
        if seen is not None:
            moments[:, c:stop] = seen
        kept += [*own, mean, var, *saved]
        c = stop
    return kept if keep else kept[:1]


@dataclass(frozen=True)
class _Step:
    """One layer's forward pass.

    Args:
        call: the block.
        layer: which of its layers.
        x: (N, H, W, c), the features so far.
        out: (N, H, W, k), where the new ones go.
        measure: whether the moments of the new ones are wanted.
    """

    call: Call
    layer: Layer
    x: Tensor
    out: Tensor
    measure: bool

    def run(
        self, parameters: list[Tensor], mean: Tensor, var: Tensor, *, keep: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        """Compute the layer; return what the backward pass needs of the second norm, and the moments if wanted."""
        ops, dtype = self.call.ops, self.call.dtype
        norm = Norm(parameters[0], parameters[1], mean, var, self.layer[0].stored.eps)
        if len(self.layer) == 1:
            scale, shift = affine(*norm)[1:]
            weight = parameters[-1].to(dtype)
            return [], ops.bnrelu_convolve(self.x, scale, shift, weight, self.out, measure=self.measure)
        second = self.layer[1]
        norm2 = Norm(parameters[3], parameters[4], *second.stored[2:])
        layer = Bottleneck(norm, parameters[2], norm2, parameters[5])
        if not (keep or self.measure or second.trains):
            ops.infer_layer(layer, self.x, self.out, dtype)
            return [], None
        z, seen2, seen = ops.layer(layer, self.x, self.out, dtype, trains=second.trains, measure=self.measure)
        return [z, *statistics(self.call, second, seen2, keep=keep)], seen
