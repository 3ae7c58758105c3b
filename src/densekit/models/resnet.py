"""ResNet for ImageNet-sized and CIFAR-sized pictures, with or without squeeze-and-excitation.

Keys, initialisation and outputs of the ImageNet networks are torchvision's.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from densekit.errors import SettingsError
from densekit.models.checks import check_input
from densekit.models.squeeze_excite import SqueezeExcite


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1; no bias, because batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def _attention(channels: int, reduction: int | None) -> nn.Module:
    return nn.Identity() if reduction is None else SqueezeExcite(channels, reduction)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., Deep Residual Learning, figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, se: int | None):
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = _attention(width, se)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        return F.relu(out + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al., figure 5 right).

    The stride is on the 3x3 convolution, as in torchvision; the paper has it on the first 1x1.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None, se: int | None):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = _attention(out_channels, se)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 width, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return F.relu(out + shortcut)


class PadShortcut(nn.Module):
    """Every stride-th pixel, and zeros for the new channels: no parameters (He et al., option A)."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + new_channels, H/stride, W/stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


_STEMS = {"imagenet": (7, 2), "cifar": (3, 1)}  # kernel size and stride of the first convolution
_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Residual network (He et al., Deep Residual Learning for Image Recognition, table 1 and section 4.2).

    Takes (N, in_channels, H, W) of any size from 1x1 and returns logits (N, num_classes).

    Args:
        block: "basic" or "bottleneck".
        layers: number of blocks in each stage; every stage but the first halves the size.
        widths: channels of each stage's 3x3 convolutions.
        stem: "imagenet" (7x7 stride 2, max-pool) or "cifar" (3x3 stride 1).
        shortcut: where the shape changes, "B" projects with a 1x1 convolution and "A" pads with zeros.
        se_reduction: reduction of the squeeze-and-excitation at each block's end; None has none.
        zero_init_residual: start every block as its shortcut (Goyal et al., section 5.1).
        num_classes: number of logits.
        in_channels: channels of the input.

    Raises:
        SettingsError: an argument that cannot work.
        ShapeError: on forward, an input that does not fit.
    """

    minimum_size = 1

    def __init__(
        self,
        block: str = "basic",
        layers: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        stem: str = "imagenet",
        shortcut: str = "B",
        se_reduction: int | None = None,
        zero_init_residual: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ):
        super().__init__()
        _check_settings(block, layers, widths, stem, shortcut)
        self.num_classes = num_classes
        self.in_channels = in_channels
        kernel_size, stride = _STEMS[stem]
        self.conv1 = _conv(in_channels, widths[0], kernel_size, stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        channels = widths[0]
        self.stage_names = [f"layer{number}" for number in range(1, len(layers) + 1)]
        for name, depth, width in zip(self.stage_names, layers, widths, strict=True):
            stride = 1 if name == "layer1" else 2
            stage = _stage(_BLOCKS[block], channels, width, depth, stride, shortcut, se_reduction)
            self.add_module(name, stage)
            channels = width * _BLOCKS[block].expansion
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, channels, H', W')."""
        check_input(x, network="ResNet", in_channels=self.in_channels, dims=2, minimum_size=self.minimum_size)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        return self.fc(self.forward_features(x).mean((2, 3)))


def _check_settings(block: str, layers: Sequence[int], widths: Sequence[int], stem: str, shortcut: str) -> None:
    choices = {"block": (block, _BLOCKS), "stem": (stem, _STEMS), "shortcut": (shortcut, "AB")}
    for name, (given, known) in choices.items():
        if given not in list(known):
            raise SettingsError(f"ResNet: {name} is {given!r}, must be one of {', '.join(known)}")
    if len(layers) != len(widths) or min(layers, default=0) < 1:
        raise SettingsError(f"ResNet: layers {layers} and widths {widths} must have one number (1 or more) a stage")


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    shortcut: str,
    se: int | None,
) -> nn.Sequential:
    """Return ``depth`` blocks, of which the first changes size and channels."""
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        if shortcut == "A":
            downsample = PadShortcut(out_channels - in_channels, stride)
        else:
            projection = _conv(in_channels, out_channels, 1, stride)
            downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    first = block(in_channels, width, stride, downsample, se)
    return nn.Sequential(first, *(block(out_channels, width, 1, None, se) for _ in range(depth - 1)))


def _cifar(blocks_per_stage: int, **options: Any) -> dict[str, Any]:
    return {"layers": (blocks_per_stage,) * 3, "widths": (16, 32, 64), "stem": "cifar", **options}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "resnet18": {"block": "basic", "layers": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "layers": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "layers": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "layers": (3, 4, 23, 3)},
    "resnet152": {"block": "bottleneck", "layers": (3, 8, 36, 3)},
    "se_resnet18": {"block": "basic", "layers": (2, 2, 2, 2), "se_reduction": 16},
    "se_resnet34": {"block": "basic", "layers": (3, 4, 6, 3), "se_reduction": 16},
    "se_resnet50": {"block": "bottleneck", "layers": (3, 4, 6, 3), "se_reduction": 16},
    "resnet14_cifar": _cifar(2),
    "se_resnet14_cifar": _cifar(2, se_reduction=16),
    # the paper's CIFAR networks have 6n + 2 layers and shortcuts without parameters (section 4.2)
    **{f"resnet{6 * n + 2}_cifar": _cifar(n, shortcut="A") for n in (3, 5, 7, 9, 18)},
}
"""Keyword sets of the named networks."""
