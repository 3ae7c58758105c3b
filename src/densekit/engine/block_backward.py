"""Backward pass of a whole dense block, from the last layer to the first."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from densekit.engine.calls import (
    Call,
    affine,
    convolve_backward,
    growth,
    images,
    moment_terms,
    norm_gradients,
    rows,
)
from densekit.engine.parts import Layer


class _Gradient:
    """The gradient of the block's features (P, C) while layers add their parts.

    Args:
        call: the block.
        out: (N, C, H, W), its output.
        moments: (2, C), batch means and variances.
        dout: (N, C, H, W), gradient of the output.
    """

    def __init__(self, call: Call, out: Tensor, moments: Tensor, dout: Tensor):
        self.call, self.out, self.means = call, out, moments[0]
        self.features = rows(out)
        self.source = rows(dout)  # not ours to overwrite: the last layer adds to it on the way into the buffer
        width = self.features.shape[1] - growth(call.layers[-1])  # no layer reads the last layer's channels
        self.buffer = self.features.new_empty(len(self.features), width)
        self.terms = torch.zeros_like(moments)  # c1 and c2 of `ops.bn_gradient`, summed over the layers so far
        self.deferred = False

    def finish(self, start: int, stop: int) -> Tensor:
        """Return the gradient of channels to which all layers that read them have added, as images."""
        part = self.source[:, start:stop]
        if self.deferred:  # otherwise nothing is taken back, not even zero times infinity
            read = slice(start, stop)
            part = self.call.ops.bn_gradient(
                part,
                self.features[:, read],
                self.means[read],
                *self.terms[:, read],
                out=torch.empty_like(part, memory_format=torch.contiguous_format),
            )
        return images(part, self.out).contiguous(memory_format=torch.channels_last)

    def added(self, channels: int, terms: tuple[Tensor, Tensor] | None) -> None:
        """Take note that a layer has written the first ``channels`` columns of the buffer."""
        self.source = self.buffer
        if terms is not None:
            self.terms[0, :channels] += terms[0]
            self.terms[1, :channels] += terms[1]
            self.deferred = True


def run_backward(call: Call, kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of the block's input and of its parameters, one after the other.

    Args:
        call: the block.
        kept: what `block_function.run_forward` returned; stays as it is.
        dout: gradient of the output, (N, C, H, W).
        wanted: whether the gradient of the input, and of each parameter, is wanted.
    """
    gradient = _Gradient(call, kept[0], kept[1], dout)
    results: list[Tensor | None] = []
    stop = dout.shape[1]
    for layer, tensors, wants, upstream in reversed(list(_steps(call, kept[2:], wanted))):
        start = stop - growth(layer)
        if upstream or any(wants):
            backward = _plain_backward if len(layer) == 1 else _bottleneck_backward
            dy = gradient.finish(start, stop).to(call.dtype)
            results[:0] = backward(layer, tensors, dy, gradient, wants, upstream)
        else:
            results[:0] = [None] * len(wants)
        stop = start
    return [gradient.finish(0, stop) if wanted[0] else None, *results]


def _steps(
    call: Call, kept: Sequence[Tensor], wanted: Sequence[bool]
) -> Iterator[tuple[Layer, list[Tensor], list[bool], bool]]:
    """Yield each layer with its tensors, which of its gradients are wanted, and whether any before it is."""
    tensors, done = iter(kept), 1
    for layer in call.layers:
        own = [next(tensors) for _ in range(5 if len(layer) == 1 else 11)]
        stop = done + 3 * len(layer)
        yield layer, own, list(wanted[done:stop]), any(wanted[:done])
        done = stop


def _plain_backward(
    layer: Layer, tensors: list[Tensor], dy: Tensor, gradient: _Gradient, wants: list[bool], upstream: bool
) -> list[Tensor | None]:
    """BN, ReLU, 3x3 convolution: return the parameters' gradients, and add to that of the features."""
    gamma, beta, weight, mean, var = tensors
    ops, x = gradient.call.ops, gradient.features[:, : len(mean)]
    norm = affine(gamma, beta, mean, var, layer[0].eps)
    activated = ops.bnrelu(x, norm.scale, norm.shift, out=torch.empty_like(x, dtype=dy.dtype))
    wants_x = upstream or any(wants[:2])
    dactivated, dweight = convolve_backward(dy, images(activated, dy), weight, wants_x, wants[2])
    if dactivated is None:
        return [None, None, dweight]
    d = rows(dactivated)
    total, weighted = ops.drelu_sums(d, activated, x, mean.to(norm.scale.dtype))
    if upstream:
        ops.add_scaled(gradient.source[:, : len(mean)], d, norm.scale, out=gradient.buffer[:, : len(mean)])
        gradient.added(len(mean), moment_terms(total, weighted, norm, len(x)) if layer[0].trains else None)
    return [*norm_gradients(total, weighted, norm, gamma), dweight]


def _bottleneck_backward(
    layer: Layer, tensors: list[Tensor], dy: Tensor, gradient: _Gradient, wants: list[bool], upstream: bool
) -> list[Tensor | None]:
    """BN, ReLU, 1x1, BN, ReLU, 3x3: return the parameters' gradients, and add to that of the features."""
    gamma, beta, weight, gamma2, beta2, weight2, mean, var, z, mean2, var2 = tensors
    ops, c = gradient.call.ops, len(mean)
    norm2 = affine(gamma2, beta2, mean2, var2, layer[1].eps)
    activated = ops.bnrelu(z, norm2.scale, norm2.shift, out=torch.empty_like(z))
    wants_z = upstream or any(wants[:5])
    dactivated, dweight2 = convolve_backward(dy, images(activated, dy), weight2, wants_z, wants[5])
    if dactivated is None:
        return [None] * 5 + [dweight2]
    d = rows(dactivated)
    mean2 = mean2.to(norm2.scale.dtype)
    total, weighted = ops.drelu_sums(d, activated, z, mean2)
    dgamma2, dbeta2 = norm_gradients(total, weighted, norm2, gamma2)
    if layer[1].trains:
        terms = moment_terms(total, weighted, norm2, len(z))
        dz = ops.bn_gradient(d, z, mean2, *terms, out=d, scale=norm2.scale)
    else:
        dz = d.mul_(norm2.scale)
    norm = affine(gamma, beta, mean, var, layer[0].eps)
    dweight, total, weighted = ops.product_backward(
        dz,
        weight.to(dz.dtype).flatten(1),
        gradient.features[:, :c],
        norm.scale,
        norm.shift,
        mean.to(norm.scale.dtype),
        gradient.source[:, :c],
        gradient.buffer[:, :c] if upstream else None,
    )
    if upstream:
        gradient.added(c, moment_terms(total, weighted, norm, len(z)) if layer[0].trains else None)
    dgamma, dbeta = norm_gradients(total, weighted, norm, gamma)
    return [dgamma, dbeta, dweight.view_as(weight).to(weight.dtype), dgamma2, dbeta2, dweight2]
