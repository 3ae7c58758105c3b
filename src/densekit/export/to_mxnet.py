"""The DenseNets as a Gluon block, for MXNet 1.9; needs mxnet and numpy, nothing else.

This file works on its own, also copied elsewhere. A folder that densekit trained becomes a Gluon block so:

    record = json.loads(Path("RUN/model.json").read_text())
    network = DenseNet(**record["architecture"]["options"])
    set_weights(network, safetensors.numpy.load_file("RUN/model.safetensors"))
    logits = network(pictures)  # (N, C, H, W)

A child carries the name that it has in PyTorch.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx  # pyright: ignore[reportMissingImports] (in an environment of its own)
import numpy as np
from mxnet.gluon import nn  # pyright: ignore[reportMissingImports]

_ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "relu": lambda: nn.Activation("relu"),
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "prelu": nn.PReLU,
    "sigmoid": lambda: nn.Activation("sigmoid"),
    "tanh": lambda: nn.Activation("tanh"),
}
_POOL = {"avg": nn.AvgPool2D, "max": nn.MaxPool2D}
_KEYS = {  # Gluon's name of a parameter -> PyTorch's
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "alpha": "weight",
}


class DenseNet(nn.HybridBlock):
    """A DenseNet: pictures (N, in_channels, H, W) -> logits (N, num_classes).

    The options are those of `densekit.models.densenet.DenseNet`, and mean the same.
    """

    def __init__(
        self,
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
    ):
        super().__init__()
        rates = [growth_rate] * len(block_config) if isinstance(growth_rate, int) else list(growth_rate)
        layer_options = {
            "bn_size": bn_size,
            "drop_rate": drop_rate,
            "activation": activation,
            "groups": groups,
            "se_reduction": se_reduction,
        }
        self.features = _stem(stem, in_channels, num_init_features, activation)
        channels = num_init_features
        for i, (num_layers, k) in enumerate(zip(block_config, rates, strict=True), start=1):
            block = nn.HybridSequential()
            for j in range(num_layers):
                block.register_child(DenseLayer(channels + j * k, k, **layer_options), f"denselayer{j + 1}")
            self.features.register_child(block, f"denseblock{i}")
            channels += num_layers * k
            if i < len(block_config):
                kept = int(channels * compression)
                self.features.register_child(_transition(channels, kept, pooling, activation), f"transition{i}")
                channels = kept
        self.features.register_child(_norm(channels), "norm5")
        self.relu5 = _ACTIVATIONS[activation]()
        self.mean = nn.GlobalAvgPool2D()
        self.classifier = nn.Dense(num_classes, in_units=channels)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return the logits."""
        return self.classifier(self.mean(self.relu5(self.features(x))))


class DenseLayer(nn.HybridSequential):
    """Return the input followed by ``k`` new features: (N, C, H, W) -> (N, C + k, H, W)."""

    def __init__(
        self,
        in_channels: int,
        k: int,
        *,
        bn_size: int | None,
        drop_rate: float,
        activation: str,
        groups: int,
        se_reduction: int | None,
    ):
        super().__init__()
        self.register_child(_norm(in_channels), "norm1")
        self.register_child(_ACTIVATIONS[activation](), "relu1")
        if bn_size is None:
            self.register_child(_conv(in_channels, k, 3, groups=groups), "conv1")
        else:
            width = bn_size * k
            self.register_child(_conv(in_channels, width, 1), "conv1")
            self.register_child(_norm(width), "norm2")
            self.register_child(_ACTIVATIONS[activation](), "relu2")
            self.register_child(_conv(width, k, 3, groups=groups), "conv2")
        if drop_rate > 0:
            self.register_child(nn.Dropout(drop_rate), "drop")
        if se_reduction is not None:
            self.register_child(SqueezeExcite(k, max(1, k // se_reduction)), "se")

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return the input followed by the new features."""
        return F.concat(x, super().hybrid_forward(F, x), dim=1)


class SqueezeExcite(nn.HybridBlock):
    """Scale each channel of each picture by a weight computed from that picture's channel means."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.mean = nn.GlobalAvgPool2D()
        self.fc1 = nn.Dense(hidden, activation="relu", in_units=channels)
        self.fc2 = nn.Dense(channels, activation="sigmoid", in_units=hidden)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return ``x``, (N, C, H, W), scaled."""
        return F.broadcast_mul(x, self.fc2(self.fc1(self.mean(x))).expand_dims(2).expand_dims(3))


def _stem(stem: str, in_channels: int, channels: int, activation: str) -> nn.HybridSequential:
    features = nn.HybridSequential()
    if stem == "cifar":
        features.register_child(_conv(in_channels, channels, 3), "conv0")
        return features
    features.register_child(_conv(in_channels, channels, 7, strides=2), "conv0")
    features.register_child(_norm(channels), "norm0")
    features.register_child(_ACTIVATIONS[activation](), "relu0")
    features.register_child(nn.MaxPool2D(3, strides=2, padding=1), "pool0")
    return features


def _transition(in_channels: int, channels: int, pooling: str, activation: str) -> nn.HybridSequential:
    transition = nn.HybridSequential()
    transition.register_child(_norm(in_channels), "norm")
    transition.register_child(_ACTIVATIONS[activation](), "relu")
    last = {"conv": _conv(in_channels, channels, 1), "pool": _POOL[pooling](2)}
    # the average and the 1x1 convolution commute: pooled first, a quarter of the arithmetic
    for name in ("pool", "conv") if pooling == "avg" else ("conv", "pool"):
        transition.register_child(last[name], name)
    return transition


def _norm(channels: int) -> nn.BatchNorm:
    return nn.BatchNorm(epsilon=1e-5, in_channels=channels)


def _conv(in_channels: int, channels: int, size: int, *, strides: int = 1, groups: int = 1) -> nn.Conv2D:
    kaiming = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
    options = {"strides": strides, "padding": size // 2, "groups": groups, "use_bias": False}
    return nn.Conv2D(channels, size, in_channels=in_channels, weight_initializer=kaiming, **options)


def set_weights(network: DenseNet, weights: Mapping[str, Any]) -> None:
    """Give a network the weights of the same network in PyTorch.

    Args:
        network: changed in place.
        weights: the state dict: PyTorch's key -> array.

    Raises:
        KeyError: a weight is missing.
        ValueError: a weight has another shape, or is left over.
    """
    left = {key: np.asarray(value) for key, value in weights.items() if not key.endswith(".num_batches_tracked")}
    network.initialize()
    for path, parameter in network._collect_params_with_prefix().items():  # what save_parameters writes
        owner, _, name = path.rpartition(".")
        array = left.pop(f"{owner}.{_KEYS[name]}")
        if array.shape != parameter.shape:
            raise ValueError(f"{path} is {parameter.shape}, given {array.shape}")
        parameter.set_data(mx.nd.array(array))
    if left:
        raise ValueError(f"no place for these weights: {', '.join(left)}")


def main() -> None:
    """Write NAME-symbol.json and NAME-0000.params: ``python to_mxnet.py FOLDER NAME-symbol.json``.

    The options.json and weights.npz in FOLDER say what network it is.
    """
    folder, file = map(Path, sys.argv[1:])
    options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
    network = DenseNet(**options)
    with np.load(folder / "weights.npz") as weights:
        set_weights(network, weights)
    network.hybridize()
    size = 4 * 2 ** len(options["block_config"])  # every block sees a pixel
    network(mx.nd.zeros((1, options["in_channels"], size, size)))  # export wants to have seen a picture, of any size
    network.export(str(file).removesuffix("-symbol.json"))


if __name__ == "__main__":
    main()
