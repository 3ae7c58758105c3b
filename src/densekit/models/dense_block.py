"""The parts of a DenseNet: dense layer, dense block and transition, in 1-D, 2-D and 3-D.

Source: Huang et al., Densely Connected Convolutional Networks, 2017, arXiv:1608.06993, section 3.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from densekit.models.squeeze_excite import SqueezeExcite

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,  # never in place: a hook on the layer before it (Grad-CAM) must see what that layer gave
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {
    "avg": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
}


class DenseLayer(nn.Module):
    """Compute ``growth_rate`` new features from all features so far.

    BN, activation, 1x1 convolution to ``bn_size * growth_rate`` channels, BN, activation, 3x3 convolution;
    without the bottleneck (``bn_size=None``) only BN, activation, 3x3 convolution.

    Args:
        in_channels: channels of all features so far, together.
        growth_rate: k, channels of the new features.
        bn_size: width of the bottleneck in units of k; None has no bottleneck.
        drop_rate: probability with which dropout zeroes a new value.
        activation: a name in `ACTIVATIONS`.
        groups: groups of the 3x3 convolution.
        se_reduction: reduction of a squeeze-and-excitation on the new features; None has none.
        spatial_dims: 1, 2 or 3.
        memory_efficient: do not keep what lies between the inputs and the 1x1 convolution (or, without a
            bottleneck, the 3x3 one) for the backward pass, compute it again there (arXiv:1707.06990).
    """

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        *,
        bn_size: int | None = 4,
        drop_rate: float = 0.0,
        activation: str = "relu",
        groups: int = 1,
        se_reduction: int | None = None,
        spatial_dims: int = 2,
        memory_efficient: bool = False,
    ):
        super().__init__()
        conv, norm, act = CONV[spatial_dims], NORM[spatial_dims], ACTIVATIONS[activation]
        self.norm1 = norm(in_channels)
        self.relu1 = act()
        if bn_size is None:
            self.conv1 = conv(in_channels, growth_rate, 3, padding=1, bias=False, groups=groups)
        else:
            width = bn_size * growth_rate
            self.conv1 = conv(in_channels, width, 1, bias=False)
            self.norm2 = norm(width)
            self.relu2 = act()
            self.conv2 = conv(width, growth_rate, 3, padding=1, bias=False, groups=groups)
        self.bottleneck = bn_size is not None
        self.drop_rate = drop_rate
        self.se = nn.Identity() if se_reduction is None else SqueezeExcite(growth_rate, se_reduction)
        self.memory_efficient = memory_efficient

    def forward(self, *features: Tensor) -> Tensor:
        """Return the new features, (N, growth_rate, *spatial), from those so far, each (N, c_i, *spatial)."""
        recompute = self.memory_efficient and self.training and torch.is_grad_enabled()
        # a compiled network decides by itself what it computes again
        if recompute and not torch.compiler.is_compiling():
            new = checkpoint(
                self._first_convolution, *features, use_reentrant=False, context_fn=self._recompute_contexts
            )
        else:
            new = self._first_convolution(*features)
        if self.bottleneck:
            new = self.conv2(self.relu2(self.norm2(new)))
        if self.drop_rate > 0:
            new = F.dropout(new, self.drop_rate, self.training)
        return self.se(new)

    def _first_convolution(self, *features: Tensor) -> Tensor:
        return self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))

    def _recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _WithoutRunningUpdate(self.norm1)


class _WithoutRunningUpdate(AbstractContextManager[None]):
    """Let a batch norm run again on a batch without counting that batch a second time.

    Can be entered again: backward runs once more over a graph that was kept.
    """

    def __init__(self, norm: nn.Module):
        self.norm = norm

    def __enter__(self) -> None:
        self.running = dict(self.norm.named_buffers())
        for name, buffer in self.running.items():
            # a copy takes the update; to skip it is not possible, checkpoint wants every operation repeated
            setattr(self.norm, name, buffer.clone())

    def __exit__(self, *error: object) -> None:
        for name, buffer in self.running.items():
            setattr(self.norm, name, buffer)


class DenseBlock(nn.ModuleDict):
    """Dense layers in sequence: (N, C, *spatial) -> (N, C + layers * growth_rate, *spatial).

    Args:
        num_layers: number of layers.
        in_channels: C.
        growth_rate: channels that each layer adds.
        layer_options: further arguments of `DenseLayer`.
    """

    def __init__(self, num_layers: int, in_channels: int, growth_rate: int, **layer_options: Any):
        super().__init__()
        for i in range(num_layers):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, **layer_options)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` followed by every layer's new features."""
        features = [x]
        for layer in self.values():
            features.append(layer(*features))
        return torch.cat(features, 1)


class Transition(nn.Module):
    """Halve the size and change the channels: BN, activation, 1x1 convolution, pooling of 2 (section 3).

    Average pooling and a 1x1 convolution are linear and commute, so the average is taken first: a quarter of
    the arithmetic, the same result. An odd last row or column is left out, as everywhere.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        pooling: "avg" or "max".
        activation: a name in `ACTIVATIONS`.
        spatial_dims: 1, 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        pooling: str = "avg",
        activation: str = "relu",
        spatial_dims: int = 2,
    ):
        super().__init__()
        self.norm = NORM[spatial_dims](in_channels)
        self.relu = ACTIVATIONS[activation]()
        self.conv = CONV[spatial_dims](in_channels, out_channels, 1, bias=False)
        self.pool = POOL[pooling][spatial_dims](2, stride=2)
        self.pool_first = pooling == "avg"

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H // 2, W // 2), likewise in 1-D and 3-D."""
        x = self.relu(self.norm(x))
        return self.conv(self.pool(x)) if self.pool_first else self.pool(self.conv(x))
