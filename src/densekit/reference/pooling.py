"""Pooling: one number for each window of pixels."""

import numpy as np

from densekit.errors import SettingsError
from densekit.reference.convolution import Pair, as_pair, check_axes, windows


def max_pool(images: np.ndarray, kernel: Pair, *, padding: Pair = 0, stride: Pair | None = None) -> np.ndarray:
    """Return the largest pixel of every window; PyTorch's ``max_pool2d``.

    Args:
        images: (N, C, H, W).
        kernel: size of the window, for both axes or (height, width).
        padding: pixels added on both sides, at most half the kernel; they never win.
        stride: pixels from one window to the next; by default the kernel's size, so that windows touch.

    Returns:
        (N, C, H', W').

    >>> max_pool(np.arange(16).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5,  7],
           [13, 15]])
    """
    _check_padding(kernel, padding)
    lowest = -np.inf if np.issubdtype(images.dtype, np.floating) else np.iinfo(images.dtype).min
    stride = kernel if stride is None else stride
    return windows(images, kernel, padding=padding, stride=stride, fill=lowest).max(axis=(-2, -1))


def average_pool(images: np.ndarray, kernel: Pair, *, padding: Pair = 0, stride: Pair | None = None) -> np.ndarray:
    """Return the mean of every window, padding counted as zeros; PyTorch's ``avg_pool2d``.

    Args:
        images: (N, C, H, W).
        kernel: size of the window, for both axes or (height, width).
        padding: zeros added on both sides, at most half the kernel.
        stride: pixels from one window to the next; by default the kernel's size, so that windows touch.

    Returns:
        (N, C, H', W').

    >>> average_pool(np.arange(16).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    _check_padding(kernel, padding)
    stride = kernel if stride is None else stride
    return windows(images, kernel, padding=padding, stride=stride).mean(axis=(-2, -1))


def global_average_pool(images: np.ndarray) -> np.ndarray:
    """Return every channel's mean, (N, C, H, W) -> (N, C): lets a network take pictures of any size."""
    check_axes("images", images, "(N, C, H, W)")
    return images.mean(axis=(2, 3))


def _check_padding(kernel: Pair, padding: Pair) -> None:
    # Beyond half a kernel a window could lie in the padding alone and would have no pixel to report.
    for k, p in zip(as_pair(kernel), as_pair(padding), strict=True):
        if p > k // 2:
            raise SettingsError(f"padding {p} for a pooling kernel of {k}: use at most {k // 2}")
