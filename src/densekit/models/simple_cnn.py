"""The smallest convolutional network worth training: two convolutions and one linear layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densekit.errors import SettingsError, ShapeError
from densekit.models.checks import check_input, is_symbolic


class SimpleCNN(nn.Module):
    """Twice (3x3 convolution, batch norm, ReLU, max-pool 2), with 16 and 32 channels, then one linear layer.

    The linear layer sees every pixel of the last feature map, so a network is built for one image size. Takes
    (N, in_channels, *image_size) and returns logits (N, num_classes).

    Args:
        num_classes: number of logits.
        in_channels: channels of the input.
        image_size: height and width of the input in pixels, at least 4 each.

    Raises:
        SettingsError: an image size that two max-pools reduce to nothing.
        ShapeError: on forward, an input of another size or number of channels.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, image_size: Sequence[int] = (32, 32)):
        super().__init__()
        height, width = image_size
        if min(image_size) < 4:
            raise SettingsError(f"SimpleCNN: image_size is {height}x{width}, must be at least 4x4")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = (height, width)
        self.minimum_size = min(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(32 * (height // 4) * (width // 4), num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, 32, H//4, W//4)."""
        check_input(x, network="SimpleCNN", in_channels=self.in_channels, dims=2, minimum_size=1)
        if not is_symbolic(x) and tuple(x.shape[2:]) != self.image_size:
            (height, width), given = self.image_size, "x".join(map(str, x.shape[2:]))
            advice = "resize the input, or build the network with image_size set to that size"
            raise ShapeError(f"this SimpleCNN takes {height}x{width} pixels, given {given}: {advice}")
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        return self.classifier(self.forward_features(x).flatten(1))


CONFIGURATIONS: dict[str, dict[str, Any]] = {"simple_cnn": {}}
"""Keyword sets of the named networks."""
