"""Dense layer, dense block and transition as plain functions of arrays.

Parameters are dictionaries with the names of torchvision's state dicts (``norm1.weight``, ``conv2.weight``),
so a trained network's own can be given. In training mode batch norm uses the batch's statistics, and every
function returns, beside its output, the new values of the buffers by name: ``parameters | buffers`` is the
state after the step. There is no dropout: a reference must give the same answer twice.

Source: Huang et al., "Densely Connected Convolutional Networks" (2017), section 3.
"""

from collections.abc import Mapping

import numpy as np

from densekit.errors import CheckpointError
from densekit.reference.convolution import convolve
from densekit.reference.normalisation import Arrays, batch_norm
from densekit.reference.pooling import average_pool


def relu(features: np.ndarray) -> np.ndarray:
    """Return the features with negative values set to zero."""
    return np.maximum(features, 0)


def dense_layer(
    features: np.ndarray, parameters: Mapping[str, np.ndarray], *, training: bool = False
) -> tuple[np.ndarray, Arrays]:
    """Compute a layer's new channels: BN-ReLU-conv3x3, or with ``conv2`` BN-ReLU-conv1x1-BN-ReLU-conv3x3.

    Args:
        features: (N, C, H, W), everything the block has made so far.
        parameters: of norm1 and conv1, and for a bottleneck layer of norm2 and conv2.
        training: normalise with batch statistics and update the running ones.

    Returns:
        The new channels (N, growth_rate, H, W) and the new buffers (see the module).
    """
    features, buffers = _norm_relu_conv(features, parameters, "1", training)
    if "conv2.weight" in parameters:
        features, more = _norm_relu_conv(features, parameters, "2", training)
        buffers |= more
    return features, buffers


def dense_block(
    features: np.ndarray, parameters: Mapping[str, np.ndarray], *, training: bool = False
) -> tuple[np.ndarray, Arrays]:
    """Run a dense block: every layer reads the input and all earlier layers' channels, and appends its own.

    Args:
        features: (N, C, H, W).
        parameters: of denselayer1, denselayer2, ...; as many layers as there are names.
        training: normalise with batch statistics and update the running ones.

    Returns:
        (N, C + layers * growth_rate, H, W) and the new buffers (see the module).
    """
    layers = len({name.partition(".")[0] for name in parameters})
    buffers: Arrays = {}
    for number in range(1, layers + 1):
        name = f"denselayer{number}"
        new, updates = dense_layer(features, _part(parameters, name), training=training)
        features = np.concatenate([features, new], axis=1)
        buffers |= _named(name, updates)
    return features, buffers


def transition(
    features: np.ndarray, parameters: Mapping[str, np.ndarray], *, training: bool = False
) -> tuple[np.ndarray, Arrays]:
    """Run the step between two blocks: BN-ReLU-conv1x1, then average pooling that halves the size.

    Args:
        features: (N, C, H, W).
        parameters: of norm and conv.
        training: normalise with batch statistics and update the running ones.

    Returns:
        (N, C_out, H // 2, W // 2) and the new buffers (see the module).
    """
    features, buffers = _norm_relu_conv(features, parameters, "", training)
    return average_pool(features, 2), buffers


def _norm_relu_conv(
    features: np.ndarray, parameters: Mapping[str, np.ndarray], number: str, training: bool
) -> tuple[np.ndarray, Arrays]:
    norm, conv = f"norm{number}", _part(parameters, f"conv{number}")
    features, buffers = batch_norm(features, _part(parameters, norm), training=training)
    same_size = conv["weight"].shape[-1] // 2  # 1 for 3x3, 0 for 1x1
    features = convolve(relu(features), conv["weight"], conv.get("bias"), padding=same_size)
    return features, _named(norm, buffers)


def _part(parameters: Mapping[str, np.ndarray], name: str) -> Arrays:
    """Return the parameters of one part, by their names within it."""
    prefix = f"{name}."
    part = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
    if not part:
        raise CheckpointError(f"no parameters for {name}; there are: {', '.join(sorted(parameters)) or 'none'}")
    return part


def _named(name: str, arrays: Arrays) -> Arrays:
    """Undo `_part`: return the arrays by their full names."""
    return {f"{name}.{key}": value for key, value in arrays.items()}
