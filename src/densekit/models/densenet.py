"""DenseNet: every layer reads the features of all layers before it (Huang et al., 2017, arXiv:1608.06993).

Keys, initialisation and outputs of the ImageNet networks are torchvision's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densekit.errors import SettingsError
from densekit.models.checks import check_input
from densekit.models.dense_block import ACTIVATIONS, CONV, NORM, POOL, DenseBlock, Transition


class DenseNet(nn.Module):
    """Densely connected network: stem, dense blocks with transitions between, BN, activation, mean, linear.

    Args:
        block_config: number of layers of each dense block.
        growth_rate: k, the features each layer adds; one number, or one for each block.
        num_init_features: channels of the stem.
        bn_size: width of the bottlenecks in units of k; None has plain layers.
        compression: theta, part of the channels that a transition keeps, in (0, 1].
        stem: "imagenet" (7x7 stride 2, BN, activation, max-pool 3 stride 2) or "cifar" (3x3).
        drop_rate: dropout on every layer's new features.
        activation: "relu", "leaky_relu", "prelu", "sigmoid" or "tanh".
        groups: groups of the 3x3 convolutions.
        se_reduction: squeeze-and-excitation on every layer's new features; None has none.
        pooling: of the transitions, "avg" or "max".
        spatial_dims: 1 for series, 2 for pictures, 3 for volumes.
        memory_efficient: keep less for the backward pass and compute it again (same numbers, slower).
        features_only: `forward` returns the output of every dense block instead of logits.
        num_classes: number of logits.
        in_channels: channels of the input.

    Raises:
        SettingsError: an argument that cannot work; says what would.
        ShapeError: on forward, an input that does not fit.
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
        spatial_dims: int = 2,
        memory_efficient: bool = False,
        features_only: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ):
        super().__init__()
        rates = [growth_rate] * len(block_config) if isinstance(growth_rate, int) else list(growth_rate)
        _check_choices(activation=activation, stem=stem, pooling=pooling, spatial_dims=spatial_dims)
        _check_numbers(block_config, rates, num_init_features, compression, drop_rate, bn_size)
        layer_options = {
            "bn_size": bn_size,
            "drop_rate": drop_rate,
            "activation": activation,
            "groups": groups,
            "se_reduction": se_reduction,
            "spatial_dims": spatial_dims,
            "memory_efficient": memory_efficient,
        }
        self.in_channels, self.num_classes, self.spatial_dims = in_channels, num_classes, spatial_dims
        self.features = _stem(stem, in_channels, num_init_features, activation, spatial_dims)
        channels = num_init_features
        self.stage_channels: list[int] = []
        for i, (num_layers, k) in enumerate(zip(block_config, rates, strict=True), start=1):
            _check_groups(groups, channels, k, bn_size)
            self.features.add_module(f"denseblock{i}", DenseBlock(num_layers, channels, k, **layer_options))
            channels += num_layers * k
            self.stage_channels.append(channels)
            if i < len(block_config):
                kept = int(channels * compression)
                if kept < 1:
                    raise SettingsError(f"DenseNet: compression {compression} leaves none of {channels} channels")
                options = {"pooling": pooling, "activation": activation, "spatial_dims": spatial_dims}
                self.features.add_module(f"transition{i}", Transition(channels, kept, **options))
                channels = kept
        # the smallest size that leaves one pixel for the last block: every transition halves, rounding down,
        # and each of the two strides of the ImageNet stem halves, rounding up
        after_stem = 2 ** (len(block_config) - 1)
        self.minimum_size = after_stem if stem == "cifar" else 4 * after_stem - 3
        self.features_only = features_only
        if not features_only:
            self.features.add_module("norm5", NORM[spatial_dims](channels))
            self.relu5 = ACTIVATIONS[activation]()
            self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
        if not self.features_only:
            nn.init.zeros_(self.classifier.bias)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Return the output of every dense block, (N, stage_channels[i], H_i, W_i), before any transition."""
        self._check(x)
        stages = []
        # a fused stem is one step of several modules
        steps = getattr(self.features, "steps", self.features.named_children)
        for name, step in steps():
            if name != "norm5":
                x = step(x)
            if name.startswith("denseblock"):
                stages.append(x)
        return stages

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C, H', W'), after the final batch norm and activation."""
        if self.features_only:
            raise SettingsError("this DenseNet was built with features_only: call forward_stages, it has no final norm")
        self._check(x)
        return self.relu5(self.features(x))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return the logits, (N, num_classes); with ``features_only`` what `forward_stages` returns."""
        if self.features_only:
            return self.forward_stages(x)
        return self.classifier(self.forward_features(x).flatten(2).mean(2))

    def _check(self, x: Tensor) -> None:
        channels, dims = self.in_channels, self.spatial_dims
        check_input(x, network="DenseNet", in_channels=channels, dims=dims, minimum_size=self.minimum_size)


def _stem(stem: str, in_channels: int, channels: int, activation: str, dims: int) -> nn.Sequential:
    if stem == "cifar":
        conv = CONV[dims](in_channels, channels, 3, padding=1, bias=False)
        return nn.Sequential(OrderedDict(conv0=conv))
    return nn.Sequential(
        OrderedDict(
            conv0=CONV[dims](in_channels, channels, 7, stride=2, padding=3, bias=False),
            norm0=NORM[dims](channels),
            relu0=ACTIVATIONS[activation](),
            pool0=POOL["max"][dims](3, stride=2, padding=1),
        )
    )


def _check_choices(**given: Any) -> None:
    known = {
        "activation": list(ACTIVATIONS),
        "stem": ["imagenet", "cifar"],
        "pooling": list(POOL),
        "spatial_dims": list(CONV),
    }
    for name, value in given.items():
        if value not in known[name]:
            choices = ", ".join(map(str, known[name]))
            raise SettingsError(f"DenseNet: {name} is {value!r}, must be one of {choices}")


def _check_numbers(
    block_config: Sequence[int],
    rates: list[int],
    num_init_features: int,
    compression: float,
    drop_rate: float,
    bn_size: int | None,
) -> None:
    if min(block_config, default=0) < 1:
        raise SettingsError(f"DenseNet: block_config is {block_config}, needs 1 layer or more in every block")
    if len(rates) != len(block_config) or min(rates) < 1:
        raise SettingsError(
            f"DenseNet: growth_rate is {rates}, must be one number, or one for each of the "
            f"{len(block_config)} blocks, of 1 or more"
        )
    if num_init_features < 1:
        raise SettingsError(f"DenseNet: num_init_features is {num_init_features}, must be 1 or more")
    if not 0 < compression <= 1:
        raise SettingsError(f"DenseNet: compression is {compression}, must be above 0 and at most 1")
    if not 0 <= drop_rate < 1:
        raise SettingsError(f"DenseNet: drop_rate is {drop_rate}, must be at least 0 and below 1")
    if bn_size is not None and bn_size < 1:
        raise SettingsError(f"DenseNet: bn_size is {bn_size}, must be 1 or more, or None for plain layers")


def _check_groups(groups: int, channels: int, growth_rate: int, bn_size: int | None) -> None:
    """Check that ``groups`` divides what every 3x3 convolution of a block reads and writes."""
    width = channels if bn_size is None else bn_size * growth_rate
    if groups < 1 or growth_rate % groups or width % groups:
        fits = [g for g in range(1, growth_rate + 1) if growth_rate % g == 0 and width % g == 0]
        raise SettingsError(
            f"DenseNet: groups is {groups}, but a 3x3 convolution maps {width} channels to {growth_rate}; "
            f"{', '.join(map(str, fits))} would divide both"
        )


def _cifar(depth: int, k: int, *, bottleneck: bool) -> dict[str, Any]:
    """Return the settings of the paper's CIFAR network with ``depth`` layers (section 4.2)."""
    layers = (depth - 4) // 3  # less the stem, two transitions and the classifier
    if not bottleneck:
        plain = {"num_init_features": 16, "bn_size": None, "compression": 1.0}
        return {"block_config": (layers,) * 3, "growth_rate": k, "stem": "cifar", **plain}
    return {"block_config": (layers // 2,) * 3, "growth_rate": k, "stem": "cifar", "num_init_features": 2 * k}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "densenet121": {"block_config": (6, 12, 24, 16), "growth_rate": 32, "num_init_features": 64},
    "densenet169": {"block_config": (6, 12, 32, 32), "growth_rate": 32, "num_init_features": 64},
    "densenet201": {"block_config": (6, 12, 48, 32), "growth_rate": 32, "num_init_features": 64},
    "densenet161": {"block_config": (6, 12, 36, 24), "growth_rate": 48, "num_init_features": 96},
    "densenet264": {"block_config": (6, 12, 64, 48), "growth_rate": 32, "num_init_features": 64},
    "se_densenet121": {"block_config": (6, 12, 24, 16), "growth_rate": 32, "se_reduction": 16},
    "densenet40_k12_cifar": _cifar(40, 12, bottleneck=False),
    "densenet100_k12_cifar": _cifar(100, 12, bottleneck=False),
    "densenet100_k24_cifar": _cifar(100, 24, bottleneck=False),
    "densenet_bc100_k12_cifar": _cifar(100, 12, bottleneck=True),
    "densenet_bc250_k24_cifar": _cifar(250, 24, bottleneck=True),
    "densenet_bc190_k40_cifar": _cifar(190, 40, bottleneck=True),
    "se_densenet_bc100_k12_cifar": {**_cifar(100, 12, bottleneck=True), "se_reduction": 16},
    # few and wide layers: the arithmetic of matrix units, rather than memory traffic, sets its speed
    "densenet12_wide_cifar": {
        "block_config": (2, 3, 3),
        "growth_rate": (32, 64, 128),
        "num_init_features": 32,
        "bn_size": None,
        "stem": "cifar",
    },
    # teaching networks for 96x96 pictures: plain layers, so that a block is one concept
    "densenet_plain_6_12_24_16": {"block_config": (6, 12, 24, 16), "growth_rate": 32, "bn_size": None},
    "densenet_plain_4_4_4_4": {"block_config": (4, 4, 4, 4), "growth_rate": 32, "bn_size": None},
}
"""Keyword sets of the named networks; the L of the paper's CIFAR names is the number of layers."""
