"""Backward pass of a whole dense block, from the last layer to the first."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm, StoredNorm, fold_norm, moment_terms, norm_gradients
from densekit.engine.calls import Call, growth, pixels
from densekit.engine.differentiable_backward import bnrelu, convolve, gradients_by_autograd
from densekit.engine.ops import Bottleneck
from densekit.engine.parts import Layer
from densekit.engine.tile_steps import flat


class _Plain(NamedTuple):
    """What the forward pass kept of a layer without a bottleneck."""

    gamma: Tensor
    beta: Tensor
    weight: Tensor
    mean: Tensor
    var: Tensor


class _Bottleneck(NamedTuple):
    """What the forward pass kept of a layer with a bottleneck: its parameters, moments, and the 1x1 product."""

    gamma: Tensor
    beta: Tensor
    weight: Tensor
    gamma2: Tensor
    beta2: Tensor
    weight2: Tensor
    mean: Tensor
    var: Tensor
    z: Tensor
    mean2: Tensor
    var2: Tensor


class _Gradient:
    """The gradient of the block's features, (N, H, W, C), to which the layers add theirs one after the other.

    Args:
        call: the block.
        features: (N, H, W, C).
        moments: (2, C), batch means and variances.
        dout: (N, H, W, C), gradient of the output.
    """

    def __init__(self, call: Call[Sequence[Layer]], features: Tensor, moments: Tensor, dout: Tensor):
        self.call, self.features, self.means = call, features, moments[0]
        self.source = dout  # belongs to the caller: the last layer adds to it while it copies it into the buffer
        width = features.shape[-1] - growth(call.parts[-1])  # no layer reads the last layer's channels
        self.buffer = features.new_empty(*features.shape[:-1], width)
        self.terms = torch.zeros_like(moments)  # for `RowSteps.bn_gradient`, summed over the layers so far
        self.deferred = False

    def finish(self, start: int, stop: int) -> Tensor:
        """Return the finished gradient of channels; every layer that reads them must have added its part."""
        part = self.source[..., start:stop]
        out = part.new_empty(part.shape)
        if not self.deferred:  # there is nothing to subtract; doing so would turn infinity into NaN
            return out.copy_(part)
        x, mean = self.features[..., start:stop], self.means[start:stop]
        one = torch.ones_like(mean)  # every layer has applied its own scale
        self.call.ops.bn_gradient(
            flat(part), flat(x), FoldedNorm(mean, one, one, -mean), self.terms[:, start:stop], out=flat(out)
        )
        return out

    def defer(self, channels: int) -> Tensor:
        """Return the terms of the first ``channels`` channels, for a layer to add to."""
        self.deferred = True
        return self.terms[:, :channels]


def run_backward(
    call: Call[Sequence[Layer]], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the block's input and of its parameters, one after the other.

    Args:
        call: the block.
        kept: what `block_function.run_forward` returned; stays as it is.
        dout: gradient of the output, (N, C, H, W).
        wanted: whether the gradient of the input, and of each parameter, is wanted.
    """
    gradient = _Gradient(call, pixels(kept[0]), kept[1], pixels(dout))
    results: list[Tensor | None] = []
    stop = dout.shape[1]
    for layer, saved, wants, upstream in reversed(list(_steps(call, kept[2:], wanted))):
        start = stop - growth(layer)
        if upstream or any(wants):
            dy = gradient.finish(start, stop).to(call.dtype)
            if isinstance(saved, _Plain):
                results[:0] = _plain_backward(layer, saved, dy, gradient, wants, upstream)
            else:
                results[:0] = _bottleneck_backward(layer, saved, dy, gradient, wants, upstream)
        else:
            results[:0] = [None] * len(wants)
        stop = start
    return [gradient.finish(0, stop).movedim(-1, 1) if wanted[0] else None, *results]


def differentiable_backward(
    call: Call[Sequence[Layer]], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Any]:
    """As `run_backward`, in operations that autograd can differentiate."""
    layers = [saved for _, saved, _, _ in _steps(call, kept[2:], wanted)]
    parameters = [tensor for layer, own in zip(call.parts, layers, strict=True) for tensor in own[: 3 * len(layer)]]
    first = dout.shape[1] - sum(map(growth, call.parts))

    def compute(features: Tensor, *parameters: Tensor) -> Tensor:
        given = iter(parameters)
        for layer, own in zip(call.parts, layers, strict=True):
            new = features
            moments_of = [(own.mean, own.var)] + ([] if isinstance(own, _Plain) else [(own.mean2, own.var2)])
            for pair, moments in zip(layer, moments_of, strict=True):
                gamma, beta, weight = (next(given) for _ in range(3))
                new = convolve(bnrelu(pair.norm, new, gamma, beta, *moments), weight, call.dtype)
            features = torch.cat([features, new.to(features.dtype)], 1)
        return features

    with torch.enable_grad():
        x = kept[0][:, :first]  # the input is a part of the output, and further derivatives reach it through that
    return gradients_by_autograd(compute, [x, *parameters], dout, wanted)


def _steps(
    call: Call[Sequence[Layer]], kept: Sequence[Tensor], wanted: Sequence[bool]
) -> Iterator[tuple[Layer, _Plain | _Bottleneck, list[bool], bool]]:
    """Yield each layer with what was kept of it, which of its gradients are wanted, and whether any before it is."""
    tensors, done = iter(kept), 1
    for layer in call.parts:
        kind = _Plain if len(layer) == 1 else _Bottleneck
        stop = done + 3 * len(layer)
        yield layer, kind(*islice(tensors, len(kind._fields))), list(wanted[done:stop]), any(wanted[:done])
        done = stop


def _plain_backward(
    layer: Layer, saved: _Plain, dy: Tensor, gradient: _Gradient, wants: list[bool], upstream: bool
) -> list[Tensor | None]:
    """BN, ReLU, 3x3 convolution: return the parameters' gradients, and add to that of the features."""
    gamma, beta, weight, mean, var = saved
    c = len(mean)
    norm, x = fold_norm(gamma, beta, mean, var, layer[0].norm.stored.eps), gradient.features[..., :c]
    onto: dict[str, Tensor | None] = {"out": None}
    if upstream:
        onto = {"source": gradient.source[..., :c], "out": gradient.buffer[..., :c]}
    elif any(wants[:2]):
        onto = {"out": dy.new_empty(x.shape)}
    sums, dweight = gradient.call.ops.bnrelu_conv3x3_backward(
        dy, x, norm, weight.to(dy.dtype), needs_dweight=wants[2], **onto
    )
    dweight = None if dweight is None else dweight.to(weight.dtype)
    if sums is None:
        return [None, None, dweight]
    if upstream:
        gradient.source = gradient.buffer
        if layer[0].norm.trains:
            gradient.defer(c).add_(moment_terms(sums, norm, dy[..., 0].numel()))
    return [*norm_gradients(sums, norm, gamma), dweight]


def _bottleneck_backward(
    layer: Layer, saved: _Bottleneck, dy: Tensor, gradient: _Gradient, wants: list[bool], upstream: bool
) -> list[Tensor | None]:
    """BN, ReLU, 1x1, BN, ReLU, 3x3: return the parameters' gradients, and add to that of the features."""
    gamma, beta, weight, gamma2, beta2, weight2, mean, var, z, mean2, var2 = saved
    norm2, ops, c = StoredNorm(gamma2, beta2, mean2, var2, layer[1].norm.stored.eps), gradient.call.ops, len(mean)
    if not (upstream or any(wants[:5])):
        _, dweight2 = ops.bnrelu_conv3x3_backward(
            dy, z, fold_norm(*norm2), weight2.to(dy.dtype), out=None, needs_dweight=True
        )
        return [*[None] * 5, None if dweight2 is None else dweight2.to(weight2.dtype)]
    norm = StoredNorm(gamma, beta, mean, var, layer[0].norm.stored.eps)
    gradients = ops.layer_backward(
        Bottleneck(norm, weight, norm2, weight2),
        dy,
        gradient.features[..., :c],
        z,
        trains=layer[1].norm.trains,
        source=gradient.source[..., :c],
        out=gradient.buffer[..., :c] if upstream else None,
        terms=gradient.defer(c) if upstream and layer[0].norm.trains else None,
        needs_dweight=wants[2],
        needs_dweight2=wants[5],
    )
    if upstream:
        gradient.source = gradient.buffer
    return gradients
