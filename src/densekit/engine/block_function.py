"""Forward pass of a whole dense block over one buffer.

All features of a block lie in one matrix (P, C): a row per pixel, the block's input first, then every layer's new
channels. A layer reads the first columns and writes its own. Batch moments belong to a channel, not to a layer: they
are computed once and shared. Nothing normalised is kept for the backward pass. What the moments contribute to a
channel's gradient is summed over all layers that read the channel, and subtracted once.

Shapes here and in the other steps are those of pictures; volumes, (N, C, D, H, W), have one more axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densekit.engine.block_backward import backward_by_autograd, run_backward
from densekit.engine.calls import Call, channels_last, growth, pixels, statistics
from densekit.engine.fused_function import Passes
from densekit.engine.norms import affine
from densekit.engine.ops import Bottleneck
from densekit.engine.parts import Layer
from densekit.engine.row_steps import accumulation_dtype
from densekit.engine.tile_steps import flat


def run_forward(call: Call[Sequence[Layer]], x: Tensor, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Return the block's output, (N, C, H, W) channels last, and what the backward pass needs, the output first.

    Args:
        call: the block.
        x: (N, c, H, W).
        keep: whether there will be a backward pass; without one, nothing is kept.
    """
    N, c, *size = x.shape
    channels = c + sum(map(growth, call.parts))
    dtype = torch.promote_types(x.dtype, call.dtype)
    # not a view, so that what follows may change it in place (without gradients only: the backward pass needs it)
    out = torch.empty(N, channels, *size, dtype=dtype, device=x.device, memory_format=channels_last(x))
    features = out.movedim(1, -1)
    moments = torch.empty(2, channels, dtype=accumulation_dtype(dtype), device=x.device)
    measured = max((number for number, layer in enumerate(call.parts) if layer[0].norm.trains), default=-1)
    if measured >= 0:  # otherwise no norm asks for the moments of the input
        moments[:, :c] = call.ops.batch_moments(flat(pixels(x)).to(dtype), out=flat(features[..., :c]))
    else:
        features[..., :c] = x.movedim(1, -1)
    kept = [out, moments]
    for number, layer in enumerate(call.parts):
        stop = c + growth(layer)
        mean, var = statistics(call, layer[0].norm, moments[:, :c], keep=keep)
        step = _Step(call, layer, features[..., :c], features[..., c:stop], measure=number < measured)
        saved, seen = step.run(mean, var, keep=keep)
        if seen is not None:
            moments[:, c:stop] = seen
        kept += [*(tensor for pair in layer for tensor in pair.parameters), mean, var, *saved]
        c = stop
    return out, kept if keep else []


DENSE_BLOCK = Passes(run_forward, run_backward, backward_by_autograd)


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

    call: Call[Sequence[Layer]]
    layer: Layer
    x: Tensor
    out: Tensor
    measure: bool

    def run(self, mean: Tensor, var: Tensor, *, keep: bool) -> tuple[list[Tensor], Tensor | None]:
        """Compute the layer; return what the backward pass needs of the second norm, and the moments if wanted."""
        ops, dtype = self.call.ops, self.call.dtype
        first = self.layer[0]
        norm = first.norm.stored._replace(mean=mean, var=var)
        if len(self.layer) == 1:
            _, scale, shift = affine(*norm)
            weight = first.weight.to(dtype)
            return [], ops.bnrelu_convolve(self.x, scale, shift, weight, self.out, measure=self.measure)
        second = self.layer[1].norm
        layer = Bottleneck(norm, first.weight, second.stored, self.layer[1].weight)
        if not (keep or self.measure or second.trains):
            ops.infer_layer(layer, self.x, self.out, dtype)
            return [], None
        z, seen2, seen = ops.layer(layer, self.x, self.out, dtype, trains=second.trains, measure=self.measure)
        return [z, *statistics(self.call, second, seen2, keep=keep)], seen
