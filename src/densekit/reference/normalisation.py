"""Batch norm: every channel is brought to mean 0 and variance 1, then scaled and shifted as it learns to.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift" (2015), algorithms 1 and 2.
"""

from collections.abc import Mapping

import numpy as np

from densekit.errors import CheckpointError, ShapeError

Arrays = dict[str, np.ndarray]
"""Parameters or buffers by name; the names are those of PyTorch's state dicts."""


def batch_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every channel's mean and biased variance over batch and pixels: (N, C, ...) -> (C,), (C,)."""
    axes = (0, *range(2, images.ndim))
    return images.mean(axis=axes), images.var(axis=axes)


def normalise(
    images: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float = 1e-5,
) -> np.ndarray:
    """Return ``(images - mean) / sqrt(variance + eps) * weight + bias``, channel by channel.

    Args:
        images: (N, C, ...).
        mean: (C,).
        variance: (C,).
        weight: (C,), the learned scale (gamma).
        bias: (C,), the learned shift (beta).
        eps: keeps a constant channel from dividing by zero.
    """
    per_channel = (-1, *[1] * (images.ndim - 2))  # (C,) -> (C, 1, 1)
    scale = weight / np.sqrt(variance + eps)
    return (images - mean.reshape(per_channel)) * scale.reshape(per_channel) + bias.reshape(per_channel)


def batch_norm(
    images: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    *,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, Arrays]:
    """Normalise with the batch's own statistics (training) or the running ones; PyTorch's BatchNorm.

    Args:
        images: (N, C, ...).
        parameters: weight, bias, running_mean, running_var, each (C,), and num_batches_tracked.
        training: which statistics.
        momentum: the batch's share in the new running statistics; None weighs all batches so far alike.
        eps: keeps a constant channel from dividing by zero.

    Returns:
        The output (N, C, ...), and the new buffers: running_mean, running_var and num_batches_tracked when
        training, none otherwise. The arrays given are not changed.

    Raises:
        CheckpointError: a parameter is missing.
        ShapeError: channels that do not fit, or a training batch with a single value per channel.
    """
    _check(images, parameters, training)
    if not training:
        mean, variance, buffers = parameters["running_mean"], parameters["running_var"], {}
    else:
        mean, variance = batch_moments(images)
        buffers = _updated_buffers(parameters, mean, variance, images.size // images.shape[1], momentum)
    return normalise(images, mean, variance, parameters["weight"], parameters["bias"], eps), buffers


def _updated_buffers(
    parameters: Mapping[str, np.ndarray],
    mean: np.ndarray,
    variance: np.ndarray,
    count: int,
    momentum: float | None,
) -> Arrays:
    batches = int(parameters["num_batches_tracked"]) + 1
    share = 1 / batches if momentum is None else momentum
    # The batch is a sample and its variance is biased; the running variance stands for all pictures.
    unbiased = variance * (count / (count - 1))
    return {
        "running_mean": (1 - share) * parameters["running_mean"] + share * mean,
        "running_var": (1 - share) * parameters["running_var"] + share * unbiased,
        "num_batches_tracked": np.array(batches),
    }


def _check(images: np.ndarray, parameters: Mapping[str, np.ndarray], training: bool) -> None:
    needed = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    missing = [name for name in needed if name not in parameters]
    if missing:
        raise CheckpointError(f"batch norm has no {', '.join(missing)}: it needs {', '.join(needed)}")
    channels = parameters["weight"].shape
    if images.ndim < 2 or images.shape[1:2] != channels:
        raise ShapeError(f"input of shape {images.shape}: this batch norm needs (N, {channels[0]}, ...)")
    if training and images.size == images.shape[1]:
        raise ShapeError(
            f"a training batch of shape {images.shape} has one value per channel, hence no variance: "
            "use a larger batch or larger pictures"
        )
