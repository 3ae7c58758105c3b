"""Convolution by hand: three rungs, from the definition in plain loops to the operation that networks use.

`convolve_channel` is the definition; `convolve_channels` adds channels as sums of it; `convolve` is the
general, vectorised operation. As in every deep learning library the kernel is not flipped (strictly this is
cross-correlation). Whole numbers stay whole, so examples on paper come out exactly.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), sections 1 and 2.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from densekit.errors import SettingsError, ShapeError

Pair = int | tuple[int, int]
"""One number for both axes, or (height, width)."""


def output_size(size: int, kernel: int, *, padding: int = 0, stride: int = 1) -> int:
    """Return how many windows fit along one axis: ``(size + 2 * padding - kernel) // stride + 1``.

    Args:
        size: pixels of the input along this axis.
        kernel: pixels of the window.
        padding: pixels added at both ends.
        stride: pixels from one window to the next.

    Raises:
        SettingsError: a kernel or stride below 1, or a negative padding.
        ShapeError: the padded input is smaller than the kernel, so the output would have less than one pixel.

    >>> output_size(96, 3, padding=1)
    96
    >>> output_size(224, 7, padding=3, stride=2)
    112
    """
    if kernel < 1 or stride < 1 or padding < 0:
        raise SettingsError(
            f"kernel {kernel}, padding {padding}, stride {stride}: kernel and stride start at 1, padding at 0"
        )
    if size + 2 * padding < kernel:
        raise ShapeError(
            f"a kernel of {kernel} does not fit an input of {size} with padding {padding}: "
            f"use a kernel up to {size + 2 * padding}, or a padding of at least {(kernel - size + 1) // 2}"
        )
    return (size + 2 * padding - kernel) // stride + 1


def convolve_channel(image: np.ndarray, kernel: np.ndarray, *, padding: int = 0, stride: int = 1) -> np.ndarray:
    """First rung: one channel, a square kernel. Every output pixel is the sum of window times kernel.

    Args:
        image: (H, W).
        kernel: (k, k).
        padding: zeros added on every side.
        stride: pixels from one window to the next, in both directions.

    Returns:
        (H', W') with the sizes of `output_size`.

    >>> convolve_channel(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), np.array([[1, 0], [0, 1]]))
    array([[ 6,  8],
           [12, 14]])
    """
    check_axes("image", image, "(H, W)")
    check_square(kernel, "(k, k)")
    image, kernel = _roomy(image), _roomy(kernel)
    k = kernel.shape[0]
    height, width = (output_size(size, k, padding=padding, stride=stride) for size in image.shape)
    padded = np.pad(image, padding)
    output = np.zeros((height, width), dtype=np.result_type(image, kernel))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            output[row, column] = np.sum(padded[top : top + k, left : left + k] * kernel)
    return output


def convolve_channels(images: np.ndarray, kernels: np.ndarray, *, padding: int = 0, stride: int = 1) -> np.ndarray:
    """Second rung: several channels. Every output channel is a sum of one-channel convolutions.

    Args:
        images: (C_in, H, W).
        kernels: (C_out, C_in, k, k).
        padding: zeros added on every side.
        stride: pixels from one window to the next, in both directions.

    Returns:
        (C_out, H', W').
    """
    check_axes("images", images, "(C_in, H, W)")
    check_square(kernels, "(C_out, C_in, k, k)")
    check_channels(images.shape[0], kernels, groups=1)
    planes = [
        [
            convolve_channel(image, kernel, padding=padding, stride=stride)
            for image, kernel in zip(images, row, strict=True)
        ]
        for row in kernels
    ]  # C_out rows of C_in planes (H', W')
    return np.stack([np.sum(row, axis=0) for row in planes])


def convolve(
    images: np.ndarray,
    kernels: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    padding: Pair = 0,
    stride: Pair = 1,
    groups: int = 1,
) -> np.ndarray:
    """Third rung: a batch, rectangular kernels, padding and stride per axis, groups; PyTorch's ``conv2d``.

    Args:
        images: (N, C_in, H, W).
        kernels: (C_out, C_in / groups, kh, kw).
        bias: (C_out,), added to every pixel of its channel.
        padding: zeros added on both sides, for both axes or (height, width).
        stride: pixels from one window to the next, for both axes or (height, width).
        groups: input and output channels are split into so many groups that do not see each other.

    Returns:
        (N, C_out, H', W').

    Raises:
        ShapeError: arrays that do not fit each other.
        SettingsError: groups that do not divide the channels, or an impossible padding or stride.
    """
    check_axes("images", images, "(N, C_in, H, W)")
    check_axes("kernels", kernels, "(C_out, C_in / groups, kh, kw)")
    check_channels(images.shape[1], kernels, groups)
    images, kernels = _roomy(images), _roomy(kernels)
    height, width = kernels.shape[2:]
    view = windows(images, (height, width), padding=padding, stride=stride)  # (N, C_in, H', W', kh, kw)
    output = np.concatenate(
        [
            np.einsum("nchwij,ocij->nohw", seen, weights, optimize=True)
            for seen, weights in zip(np.split(view, groups, axis=1), np.split(kernels, groups), strict=True)
        ],
        axis=1,
    )
    if bias is None:
        return output
    if bias.shape != kernels.shape[:1]:
        raise ShapeError(f"bias has shape {bias.shape}; {len(kernels)} output channels need ({len(kernels)},)")
    return output + bias[:, None, None]


def _roomy(array: np.ndarray) -> np.ndarray:
    """Return whole numbers as int64, in which sums of products of small types do not wrap around."""
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


def windows(images: np.ndarray, kernel: Pair, *, padding: Pair = 0, stride: Pair = 1, fill: float = 0) -> np.ndarray:
    """Return every window that a kernel sees, as a read-only view: (N, C, H, W) -> (N, C, H', W', kh, kw).

    Args:
        images: (N, C, H, W).
        kernel: size of the window, for both axes or (height, width).
        padding: pixels of value ``fill`` added on both sides.
        stride: pixels from one window to the next.
        fill: value of the padding.
    """
    check_axes("images", images, "(N, C, H, W)")
    kernel, (top, left), (down, right) = as_pair(kernel), as_pair(padding), as_pair(stride)
    for size, k, p, s in zip(images.shape[2:], kernel, (top, left), (down, right), strict=True):
        output_size(size, k, padding=p, stride=s)  # for its errors: NumPy's own do not name the settings
    padded = np.pad(images, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=fill)
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::right]


def as_pair(value: Pair) -> tuple[int, int]:
    """Return (height, width) of a setting that may be one number for both."""
    return (value, value) if isinstance(value, int) else value


def channels_per_group(in_channels: int, out_channels: int, groups: int) -> int:
    """Return how many input channels a kernel sees; raise `SettingsError` unless groups divide both."""
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise SettingsError(
            f"{groups} groups cannot share {in_channels} input and {out_channels} output channels: "
            "groups must divide both"
        )
    return in_channels // groups


def check_axes(name: str, array: np.ndarray, layout: str) -> None:
    """Raise `ShapeError` unless ``array`` has as many axes as ``layout``, for example ``"(N, C, H, W)"``."""
    if array.ndim != layout.count(",") + 1:
        raise ShapeError(f"{name} of shape {array.shape}: expected {layout}")


def check_square(kernel: np.ndarray, layout: str) -> None:
    """Raise `ShapeError` unless ``kernel`` has the axes of ``layout`` and the last two are equal."""
    check_axes("kernel", kernel, layout)
    if kernel.shape[-1] != kernel.shape[-2]:
        raise ShapeError(f"kernel of shape {kernel.shape}: expected a square; convolve() takes rectangles")


def check_channels(in_channels: int, kernels: np.ndarray, groups: int) -> None:
    """Raise `ShapeError` unless kernels (C_out, C_in / groups, kh, kw) fit that many input channels."""
    out_channels, seen = kernels.shape[:2]
    expected = channels_per_group(in_channels, out_channels, groups)
    if seen != expected:
        raise ShapeError(
            f"kernels of shape {kernels.shape} see {seen} channels; "
            f"{in_channels} input channels in {groups} group(s) need {expected}"
        )
