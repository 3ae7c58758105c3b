"""Batch norm of the fused dense block, folded to a scale and a shift for every channel, and its gradients."""

from typing import NamedTuple

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which statistics and sums over values of ``dtype`` are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class StoredNorm(NamedTuple):
    """A batch norm as it is stored: gamma and beta, running mean and variance, each (c,), and epsilon."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float


class FoldedNorm(NamedTuple):
    """A batch norm as ``x * scale + shift``, all (c,), of the accumulation type.

    With the variance's square root ``std``, epsilon included, ``scale`` is ``gamma / std``, and ``shift`` is
    ``beta - mean * scale``.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor


def fold_norm(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> FoldedNorm:
    """Fold the vectors of a batch norm, each (c,), into a scale and a shift."""
    dtype = accumulation_dtype(weight.dtype)
    std = (var.to(dtype) + eps).sqrt()
    mean, scale = mean.to(dtype), weight.to(dtype) / std
    return FoldedNorm(mean, std, scale, bias.to(dtype) - mean * scale)


def norm_gradients(sums: Tensor, norm: FoldedNorm, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of gamma and beta from the sums of `RowSteps.drelu_sums`, in the type of ``like``."""
    return (sums[1] / norm.std).to(like.dtype), sums[0].to(like.dtype)


def moment_terms(sums: Tensor, norm: FoldedNorm, count: int) -> Tensor:
    """Return the terms of `RowSteps.bn_gradient`: the parts of the gradient due to the batch's mean and variance."""
    return torch.stack([norm.scale * sums[0] / count, norm.scale * sums[1] / (norm.std * norm.std * count)])
