"""VGG with batch norm and one linear layer: VGG as CIFAR-sized pictures use it."""

from typing import Any

from torch import Tensor, nn

from densekit.errors import SettingsError
from densekit.models.checks import check_input

# depth -> convolutions in each of the five stages (Simonyan and Zisserman, table 1: columns A, B, D, E)
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG with batch norm: five stages that each halve the size, global average pooling, one linear layer.

    Takes (N, in_channels, H, W) from 32x32, where the last feature map is 1x1 and the pooling does nothing,
    and returns logits (N, num_classes). The features are those of torchvision's ``vgg*_bn``.

    Args:
        depth: 11, 13, 16 or 19, counted as in the paper, whose two further linear layers are left out here.
        num_classes: number of logits.
        in_channels: channels of the input.

    Raises:
        SettingsError: another depth.
        ShapeError: on forward, an input that does not fit.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks, table 1.
    """

    minimum_size = 32

    def __init__(self, depth: int = 16, *, num_classes: int = 1000, in_channels: int = 3):
        super().__init__()
        if depth not in _STAGES:
            raise SettingsError(f"VGG: depth is {depth!r}, must be one of {', '.join(map(str, _STAGES))}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        modules: list[nn.Module] = []
        channels = in_channels
        for convolutions, width in zip(_STAGES[depth], _WIDTHS, strict=True):
            for _ in range(convolutions):
                modules += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType] (built with a bias)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, 512, H/32, W/32)."""
        check_input(x, network="VGG", in_channels=self.in_channels, dims=2, minimum_size=self.minimum_size)
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        return self.classifier(self.forward_features(x).mean((2, 3)))


CONFIGURATIONS: dict[str, dict[str, Any]] = {f"vgg{depth}_bn_cifar": {"depth": depth} for depth in _STAGES}
"""Keyword sets of the named networks."""
