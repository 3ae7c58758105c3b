"""Batch norm of the fused dense block: a scale and a shift for every channel, and the gradients of its parameters."""

from typing import NamedTuple

import torch
from torch import Tensor

from densekit.engine.row_steps import accumulation_dtype


class Norm(NamedTuple):
    """A batch norm as it is stored; all (c,)."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float


class Affine(NamedTuple):
    """A batch norm as ``x * scale + shift``; all (c,), of the accumulation type."""

    std: Tensor
    scale: Tensor
    shift: Tensor


def affine(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Affine:
    """Turn the vectors of a batch norm, each (c,), into a scale and a shift."""
    dtype = accumulation_dtype(weight.dtype)
    std = (var.to(dtype) + eps).sqrt()
    scale = weight.to(dtype) / std
    return Affine(std, scale, bias.to(dtype) - mean.to(dtype) * scale)


def norm_gradients(sums: Tensor, norm: Affine, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a norm's scale and shift from the sums of `RowSteps.drelu_sums`."""
    return (sums[1] / norm.std).to(like.dtype), sums[0].to(like.dtype)


def moment_terms(sums: Tensor, norm: Affine, count: int) -> Tensor:
    """Return the terms of `RowSteps.bn_gradient`: the parts of the gradient due to the batch's mean and variance."""
    return torch.stack([norm.scale * sums[0] / count, norm.scale * sums[1] / (norm.std * norm.std * count)])
