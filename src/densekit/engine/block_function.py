"""Forward pass of a whole dense block over one buffer.

All features of a block lie in one matrix (P, C): a row per pixel, the block's input first, then every layer's new
channels. A layer reads the first columns and writes its own. Batch moments belong to a channel, not to a layer: they
are computed once and shared. Nothing normalised is kept for the backward pass. What the moments contribute to a
channel's gradient is summed over all layers that read the channel, and subtracted once.

Shapes here and in the other steps are those of pictures; volumes, (N, C, D, H, W), have one more axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from densekit.engine.autograd_function import Passes
from densekit.engine.batch_norm import accumulation_dtype, fold_norm
from densekit.engine.block_backward import differentiable_backward, run_backward
from densekit.engine.calls import Call, channels_last, growth, pixels, statistics
from densekit.engine.ops import Bottleneck
from densekit.engine.parts import Layer
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
        before, new = features[..., :c], features[..., c:stop]
        saved, own = _run_layer(call, layer, before, new, mean, var, keep=keep, with_moments=number < measured)
        if own is not None:
            moments[:, c:stop] = own
        kept += [*(tensor for pair in layer for tensor in pair.parameters), mean, var, *saved]
        c = stop
    return out, kept if keep else []


def _run_layer(
    call: Call[Sequence[Layer]],
    layer: Layer,
    x: Tensor,
    out: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    keep: bool,
    with_moments: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Compute one layer.

    Args:
        call: the block.
        layer: which of its layers.
        x: (N, H, W, c), the features so far.
        out: (N, H, W, k), where the new ones go.
        mean: (c,), what the first norm subtracts.
        var: (c,), whose square root it divides by.
        keep: whether there will be a backward pass.
        with_moments: whether the moments of the new features are wanted.

    Returns:
        What the backward pass needs of the second norm and its input, and the moments (2, k) if wanted.
    """
    ops, dtype, first = call.ops, call.dtype, layer[0]
    norm = first.norm.stored._replace(mean=mean, var=var)
    if len(layer) == 1:
        return [], ops.bnrelu_conv3x3(x, fold_norm(*norm), first.weight.to(dtype), out, with_moments=with_moments)
    second = layer[1]
    bottleneck = Bottleneck(norm, first.weight, second.norm.stored, second.weight)
    trains = second.norm.trains
    if not (keep or with_moments or trains):
        ops.infer_layer(bottleneck, x, out, dtype)
        return [], None
    z, moments2, moments = ops.layer(bottleneck, x, out, dtype, trains=trains, with_moments=with_moments)
    return [z, *statistics(call, second.norm, moments2, keep=keep)], moments


DENSE_BLOCK = Passes(run_forward, run_backward, differentiable_backward)
