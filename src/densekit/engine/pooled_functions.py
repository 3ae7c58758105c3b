"""Forward and backward passes of the modules with pooling: transitions, and the stem of a network.

A transition is BN, ReLU, 2x2 mean, 1x1 convolution, in this order: the mean and the convolution are linear and commute,
so the mean is taken first, for a quarter of the arithmetic. A stem, after its first convolution, is BN, ReLU, maximum
of 3x3 pixels. For the backward pass both keep the input and nothing else of its size. Outputs are not views, so that
what follows may change them in place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.autograd_function import Passes
from densekit.engine.batch_norm import FoldedNorm, accumulation_dtype, fold_norm, moment_terms, norm_gradients
from densekit.engine.calls import Call, channels_last, pixels, statistics
from densekit.engine.differentiable_backward import bnrelu, convolve, gradients_by_autograd
from densekit.engine.parts import NormState, Pair
from densekit.engine.tile_steps import flat, kernels_like, multiply, multiply_backward


def _transition_forward(call: Call[Pair], x: Tensor, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Compute (N, C, H, W) -> (N, D, H // 2, W // 2), in channels-last memory."""
    features = pixels(x)
    norm, moments = _normalise(call, call.parts.norm, features, keep=keep)
    pooled = call.ops.bnrelu_avg_pool(features, norm, call.dtype)  # (N, h, w, C)
    (N, *size, _), weight = pooled.shape, call.parts.weight.to(call.dtype).flatten(1)
    out = torch.empty(N, len(weight), *size, dtype=pooled.dtype, device=x.device, memory_format=channels_last(x))
    multiply(flat(pooled), weight, out=flat(out.movedim(1, -1)))
    return out, [x, *call.parts.parameters, *moments]


def _transition_backward(
    call: Call[Pair], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the input, the norm's gamma and beta, and the weight; ``dout`` is (N, D, h, w)."""
    x, gamma, beta, weight, mean, var = kept
    features = pixels(x)
    norm = fold_norm(gamma, beta, mean, var, call.parts.norm.stored.eps)
    dout = dout.movedim(1, -1)  # (N, h, w, D)
    pooled = call.ops.bnrelu_avg_pool(features, norm, dout.dtype)
    matrix = weight.to(dout.dtype).flatten(1)
    rows, dmatrix = multiply_backward(dout.flatten(0, -2), flat(pooled), matrix, needs_dweight=wanted[3])
    dpooled = rows.view(pooled.shape)
    dweight = None if dmatrix is None else kernels_like(dmatrix.to(weight.dtype), weight)
    gradient, sums = call.ops.bnrelu_avg_pool_backward(dpooled, features, norm)
    return [*_norm_backward(call, call.parts.norm, norm, features, gradient, sums), dweight]


def _transition_differentiable(
    call: Call[Pair], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Any]:
    *inputs, mean, var = kept

    def compute(x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
        activated = bnrelu(call.parts.norm, x, gamma, beta, mean, var)
        if x.dim() == 4:
            pooled = F.avg_pool2d(activated, 2)
        else:  # PyTorch has no such mean in half types on a CPU
            pooled = F.avg_pool3d(activated.to(accumulation_dtype(x.dtype)), 2)
        return convolve(pooled, weight, call.dtype)

    return gradients_by_autograd(compute, inputs, dout, wanted)


def _stem_forward(call: Call[NormState], x: Tensor, *, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Compute (N, C, H, W) -> (N, C, h, w) with half of the lines and columns, rounded up, in channels-last memory."""
    features = pixels(x)
    norm, moments = _normalise(call, call.parts, features, keep=keep)
    N, C, *size = x.shape
    size = [(side + 1) // 2 for side in size]
    out = torch.empty(N, C, *size, dtype=x.dtype, device=x.device, memory_format=channels_last(x))
    indices = call.ops.bnrelu_max_pool(features, norm, out.movedim(1, -1), return_indices=keep)
    return out, [x, *call.parts.parameters, *moments, *([] if indices is None else [indices])]


def _stem_backward(
    call: Call[NormState], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the input and of the norm's gamma and beta; ``dout`` is (N, C, h, w)."""
    x, gamma, beta, mean, var, indices = kept
    features = pixels(x)
    norm = fold_norm(gamma, beta, mean, var, call.parts.stored.eps)
    gradient, sums = call.ops.bnrelu_max_pool_backward(pixels(dout), indices, features, norm)
    return _norm_backward(call, call.parts, norm, features, gradient, sums)


def _stem_differentiable(
    call: Call[NormState], kept: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Any]:
    *inputs, mean, var, _ = kept

    def compute(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        largest = F.max_pool2d if x.dim() == 4 else F.max_pool3d
        return largest(bnrelu(call.parts, x, gamma, beta, mean, var), 3, 2, 1)

    return gradients_by_autograd(compute, inputs, dout, wanted)


TRANSITION = Passes(_transition_forward, _transition_backward, _transition_differentiable)
STEM = Passes(_stem_forward, _stem_backward, _stem_differentiable)


def _normalise(
    call: Call[Any], norm: NormState, features: Tensor, *, keep: bool
) -> tuple[FoldedNorm, tuple[Tensor, Tensor]]:
    """Return the norm of ``features`` (N, H, W, C), folded, and the mean and variance that it uses."""
    moments = call.ops.batch_moments(flat(features)) if norm.trains else None
    mean, var = statistics(call, norm, moments, keep=keep)
    return fold_norm(*norm.stored._replace(mean=mean, var=var)), (mean, var)


def _norm_backward(
    call: Call[Any], state: NormState, norm: FoldedNorm, features: Tensor, gradient: Tensor, sums: Tensor
) -> list[Tensor | None]:
    """Differentiate a norm: return the gradients of its input (N, C, H, W), gamma and beta.

    Args:
        call: of which module.
        state: the norm.
        norm: folded.
        features: (N, H, W, C), its input.
        gradient: (N, H, W, C), masked by the ReLU; is overwritten.
        sums: of `RowSteps.drelu_sums`.
    """
    d = flat(gradient)
    if state.trains:
        call.ops.bn_gradient(d, flat(features), norm, moment_terms(sums, norm, len(d)), out=d)
    else:
        d.mul_(norm.scale)
    return [gradient.movedim(-1, 1).to(features.dtype), *norm_gradients(sums, norm, state.stored.weight)]
