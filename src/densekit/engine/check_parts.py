"""Whether an input fits the parts of a fused module: channels, types and devices, as the stock modules want them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densekit.engine.batch_norm import accumulation_dtype
from densekit.engine.fallback import UnsupportedInput, is_plain
from densekit.engine.parts import NormState, Pair, dimensions

_HALF = (torch.float16, torch.bfloat16)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which convolutions of ``x`` run: autocast's, where that is on and applies."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def check_pair(pair: Pair, x: Tensor, channels: int, dtype: torch.dtype) -> int:
    """Check that a norm and its convolution can take ``channels`` channels of ``dtype`` made from ``x``.

    Returns:
        The channels that the convolution makes.

    Raises:
        UnsupportedInput: they cannot, so that the stock modules shall say what is wrong.
        ValueError: one value per channel in training, as stock PyTorch raises it.
    """
    weight = pair.weight
    check_norm(pair.norm, x, channels, dtype)
    if weight.dim() != x.dim():
        raise UnsupportedInput("a convolution of another number of dimensions")
    if weight.shape[1] != channels:
        raise UnsupportedInput("channels that do not fit")
    _check_tensors((weight,), x.device)
    compute = compute_dtype(x)
    cast = compute != x.dtype or torch.is_autocast_enabled(x.device.type)
    castable = cast and weight.dtype in (torch.float32, *_HALF)
    if weight.dtype != compute and not castable:
        raise UnsupportedInput("input and weights of different types")
    return weight.shape[0]


def check_norm(norm: NormState, x: Tensor, channels: int, dtype: torch.dtype) -> None:
    """Check that a norm can take ``channels`` channels of ``dtype`` made from ``x``; raises as `check_pair`."""
    if x.dim() != dimensions(norm):
        raise UnsupportedInput("input of another number of dimensions")
    vectors, dtypes = norm.stored[:4], (dtype, accumulation_dtype(dtype))
    for vector in vectors:
        if vector.shape != (channels,):
            raise UnsupportedInput("channels that do not fit")
        if vector.dtype not in dtypes:
            raise UnsupportedInput("input and batch norms of different types")
    _check_tensors(vectors, x.device)
    if norm.trains and x.numel() == x.shape[1]:
        size = torch.Size([1, channels, *[1] * (x.dim() - 2)])
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


def _check_tensors(tensors: Sequence[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        if not is_plain(tensor):
            raise UnsupportedInput("weights that are not plain dense tensors")
        if tensor.device != device:
            raise UnsupportedInput("input and weights on different devices")
