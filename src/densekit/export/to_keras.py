"""The DenseNets as a Keras model, channels last, for TensorFlow, JAX and PyTorch; needs keras and numpy, nothing else.

This file works on its own, also copied elsewhere. A folder that densekit trained becomes a Keras model so:

    record = json.loads(Path("RUN/model.json").read_text())
    model = build(**record["architecture"]["options"])
    set_weights(model, safetensors.numpy.load_file("RUN/model.safetensors"))
    logits = model(pictures)  # (N, H, W, C)

A layer carries the name that it has in PyTorch, with _ for a dot. What differs between the two: Keras batch norms have
another epsilon, its "same" padding of strided layers puts more zeros on the right than on the left, and its kernels are
transposed.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras  # pyright: ignore[reportMissingImports] (an extra)
import numpy as np
from keras import layers  # pyright: ignore[reportMissingImports]

_LAST = "channels_last"  # said everywhere: a user's keras.json may have another default
_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": layers.ReLU,
    "leaky_relu": lambda name: layers.LeakyReLU(negative_slope=0.01, name=name),
    "prelu": lambda name: layers.PReLU(
        shared_axes=(1, 2), alpha_initializer=keras.initializers.Constant(0.25), name=name
    ),
    "sigmoid": lambda name: layers.Activation("sigmoid", name=name),
    "tanh": lambda name: layers.Activation("tanh", name=name),
}
_KEYS = {  # Keras' name of a variable -> PyTorch's
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",
}


def build(
    block_config: Sequence[int] = (6, 12, 24, 16),
    growth_rate: int | Sequence[int] = 32,
    *,
    num_init_features: int = 64,
    bn_size: int | None = 4,
    compression: float = 0.5,
    stem: str = "imagenet",
    drop_rate: float = 0.0,
    activation: str = "relu",
    groups: int = 1,
    se_reduction: int | None = None,
    pooling: str = "avg",
    num_classes: int = 1000,
    in_channels: int = 3,
) -> keras.Model:
    """Return a model with fresh weights: pictures (N, H, W, in_channels) of any size -> logits (N, num_classes).

    The options are those of `densekit.models.densenet.DenseNet`, and mean the same.
    """
    rates = [growth_rate] * len(block_config) if isinstance(growth_rate, int) else list(growth_rate)
    layer_options = {
        "bn_size": bn_size,
        "drop_rate": drop_rate,
        "activation": activation,
        "groups": groups,
        "se_reduction": se_reduction,
    }
    inputs = layers.Input((None, None, in_channels))
    x = _stem(inputs, stem, num_init_features, activation)
    for block, (num_layers, k) in enumerate(zip(block_config, rates, strict=True), start=1):
        for layer in range(1, num_layers + 1):
            new = _dense_layer(x, f"features_denseblock{block}_denselayer{layer}", k, **layer_options)
            x = layers.Concatenate()([x, new])
        if block < len(block_config):
            x = _transition(x, f"features_transition{block}", int(x.shape[-1] * compression), pooling, activation)
    x = _norm_activation(x, "features_norm5", "relu5", activation)
    x = layers.GlobalAveragePooling2D(data_format=_LAST)(x)
    return keras.Model(inputs, _linear(x, "classifier", num_classes))


def _stem(x: Any, stem: str, channels: int, activation: str) -> Any:
    if stem == "cifar":
        return _conv(x, "features_conv0", channels, 3)
    x = _conv(x, "features_conv0", channels, 7, strides=2)
    x = _norm_activation(x, "features_norm0", "features_relu0", activation)
    x = keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)  # may not win a maximum
    return layers.MaxPooling2D(3, strides=2, data_format=_LAST, name="features_pool0")(x)


def _dense_layer(
    x: Any,
    name: str,
    k: int,
    *,
    bn_size: int | None,
    drop_rate: float,
    activation: str,
    groups: int,
    se_reduction: int | None,
) -> Any:
    """Return the ``k`` new features."""
    x = _norm_activation(x, f"{name}_norm1", f"{name}_relu1", activation)
    if bn_size is None:
        x = _conv(x, f"{name}_conv1", k, 3, groups=groups)
    else:
        x = _conv(x, f"{name}_conv1", bn_size * k, 1)
        x = _norm_activation(x, f"{name}_norm2", f"{name}_relu2", activation)
        x = _conv(x, f"{name}_conv2", k, 3, groups=groups)
    if drop_rate > 0:
        x = layers.Dropout(drop_rate)(x)
    return x if se_reduction is None else _squeeze_excite(x, f"{name}_se", max(1, k // se_reduction))


def _squeeze_excite(x: Any, name: str, hidden: int) -> Any:
    means = layers.GlobalAveragePooling2D(keepdims=True, data_format=_LAST)(x)
    weights = layers.ReLU()(_linear(means, f"{name}_fc1", hidden))
    weights = layers.Activation("sigmoid")(_linear(weights, f"{name}_fc2", x.shape[-1]))
    return layers.Multiply()([x, weights])


def _transition(x: Any, name: str, channels: int, pooling: str, activation: str) -> Any:
    x = _norm_activation(x, f"{name}_norm", f"{name}_relu", activation)
    if pooling == "max":
        return layers.MaxPooling2D(2, data_format=_LAST)(_conv(x, f"{name}_conv", channels, 1))
    # the average and the 1x1 convolution commute: a quarter of the arithmetic
    return _conv(layers.AveragePooling2D(2, data_format=_LAST)(x), f"{name}_conv", channels, 1)


def _norm_activation(x: Any, norm: str, act: str, activation: str) -> Any:
    x = layers.BatchNormalization(axis=-1, momentum=0.9, epsilon=1e-5, name=norm)(x)
    return _ACTIVATIONS[activation](name=act)(x)


def _conv(x: Any, name: str, channels: int, size: int, *, strides: int = 1, groups: int = 1) -> Any:
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, data_format=_LAST)(x)
    kaiming = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    options = {"strides": strides, "groups": groups, "use_bias": False, "kernel_initializer": kaiming}
    return layers.Conv2D(channels, size, **options, data_format=_LAST, name=name)(x)


def _linear(x: Any, name: str, units: int) -> Any:
    uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")  # PyTorch's
    return layers.Dense(units, kernel_initializer=uniform, name=name)(x)


def set_weights(model: keras.Model, weights: Mapping[str, Any]) -> None:
    """Give a model of `build` the weights of the same network in PyTorch.

    Args:
        model: changed in place.
        weights: the state dict: PyTorch's key -> array.

    Raises:
        KeyError: a weight is missing.
        ValueError: a weight has another shape, or is left over.
    """
    left = {key: np.asarray(value) for key, value in weights.items() if not key.endswith(".num_batches_tracked")}
    for layer in model.layers:
        for variable in layer.weights:
            array = left.pop(f"{layer.name.replace('_', '.')}.{_KEYS[variable.name]}")
            if variable.name == "kernel":  # (out, in, H, W) -> (H, W, in, out), and (out, in) -> (in, out)
                array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            elif variable.name == "alpha":  # PyTorch's PReLU has one slope for all channels
                array = np.broadcast_to(array, variable.shape)
            variable.assign(array)
    if left:
        raise ValueError(f"no place for these weights: {', '.join(left)}")


def main() -> None:
    """Write a .keras file: ``python to_keras.py FOLDER FILE``, with options.json and weights.npz in FOLDER."""
    folder, file = map(Path, sys.argv[1:])
    model = build(**json.loads((folder / "options.json").read_text(encoding="utf-8")))
    with np.load(folder / "weights.npz") as weights:
        set_weights(model, weights)
    model.save(file)


if __name__ == "__main__":
    main()
