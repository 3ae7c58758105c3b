"""A dense layer, transition or stem in PyTorch's own operations, and its gradients by autograd.

For what the fused backward pass does not support: gradients that are differentiated again, batched gradients, and tools
that record every operation. It computes the forward pass once more, so it is somewhat slower than the stock modules.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.parts import NormState


def bnrelu(norm: NormState, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Batch norm and ReLU, (N, C, H, W), with the batch's own moments if the norm trains, else with those given."""
    moments = (None, None) if norm.trains else (mean, var)
    return F.relu(F.batch_norm(x, *moments, gamma, beta, norm.trains, 0.0, norm.stored.eps))


def convolve(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """1x1 or 3x3 convolution that keeps height and width, (N, C, H, W) -> (N, K, H, W), in ``dtype``; or of volumes."""
    convolution = F.conv2d if x.dim() == 4 else F.conv3d
    return convolution(x.to(dtype), weight.to(dtype), padding=weight.shape[-1] // 2)


def gradients_by_autograd(
    compute: Callable[..., Tensor], inputs: Sequence[Tensor], dout: Tensor, wanted: Sequence[bool]
) -> list[Any]:
    """Return the gradients of the inputs that are wanted, and None for the others.

    Args:
        compute: the function of the inputs, in operations that autograd can differentiate.
        inputs: tensors that may have graphs of their own, through which derivatives of the gradients continue.
        dout: gradient of what ``compute`` returns.
        wanted: whether the gradient of each input is wanted.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # fresh views: one input may depend on another, and gradients must not flow along that path
        inputs = [x.view_as(x) if wants else x.detach() for x, wants in zip(inputs, wanted, strict=True)]
        out = compute(*inputs)
        gradients = iter(torch.autograd.grad(out, list(compress(inputs, wanted)), dout, create_graph=again))
    return [next(gradients) if wants else None for wants in wanted]
