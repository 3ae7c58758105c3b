"""The check of its input that every network makes: a wrong one gets an error that says what would fit."""

import torch
from torch import Tensor

from densekit.errors import ShapeError

_AXES = {0: "", 1: ", L", 2: ", H, W", 3: ", D, H, W"}


def is_symbolic(x: Tensor) -> bool:
    """Return whether ``x`` stands for inputs to come (`torch.export`, `torch.jit.trace`, `torch.fx`).

    A Python comparison of such an input's shape would be frozen into the exported program.
    """
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] (documented, not in __all__)
    return tracing or torch.compiler.is_exporting() or isinstance(x, torch.fx.Proxy)


def check_input(x: Tensor, *, network: str, in_channels: int, dims: int, minimum_size: int) -> None:
    """Raise unless a network can take ``x``; reads only dtype and shape, so it never waits for a GPU.

    Args:
        x: (N, C, *spatial) floating-point input.
        network: what the message calls the network, e.g. ``"ResNet"``.
        in_channels: the C that the network was built for.
        dims: number of spatial dimensions, 0 (a table of features) to 3.
        minimum_size: smallest size of each spatial dimension, in pixels.

    Raises:
        ShapeError: wrong dtype, number of dimensions, channels or size; says what would fit.

    >>> check_input(torch.rand(3, 8, 8), network="VGG", in_channels=3, dims=2, minimum_size=1)
    Traceback (most recent call last):
    densekit.errors.ShapeError: VGG takes (N, 3, H, W), given (3, 8, 8): add the batch dimension with x[None]
    """
    if is_symbolic(x):
        return
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        advice = "convert it with x.float() (and pictures of 0 to 255 with x.float() / 255)"
        raise ShapeError(f"{network} takes floating-point input, given {kind}: {advice}")
    size = tuple(x.shape)
    if len(size) == dims + 1:
        advice = "add the batch dimension with x[None]"
    elif len(size) != dims + 2:
        advice = f"give {dims + 2} dimensions, not {len(size)}"
    elif size[1] != in_channels:
        advice = f"give {in_channels} channels, or build the network for {size[1]}"
    elif any(length < minimum_size for length in size[2:]):
        advice = f"resize it to at least {' x '.join([str(minimum_size)] * dims)}"
    else:
        return
    raise ShapeError(f"{network} takes (N, {in_channels}{_AXES[dims]}), given {size}: {advice}")
