"""Squeeze-and-excitation: channels weighted by what the whole sample shows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densekit.errors import SettingsError


class SqueezeExcite(nn.Module):
    """Scale each channel of each sample by a weight in 0..1 computed from that sample's channel means.

    Global average pool, linear c -> c/r, ReLU, linear c/r -> c, sigmoid, scale. Works on (N, C, *spatial)
    with any number of spatial dimensions.

    Args:
        channels: C of the input.
        reduction: r; the hidden layer has ``channels // reduction`` units, at least 1.

    Source: Hu et al., Squeeze-and-Excitation Networks, section 3.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        if reduction < 1:
            raise SettingsError(f"SqueezeExcite: reduction is {reduction}, must be at least 1")
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, (N, C, *spatial), scaled."""
        means = x.flatten(2).mean(2)  # (N, C): one row per sample, never shared across the batch
        weights = torch.sigmoid(self.fc2(F.relu(self.fc1(means))))  # (N, C)
        return _scale_channels(x, weights)


@torch.fx.wrap  # a step of its own for torch.fx, which cannot look into x.dim()
def _scale_channels(x: Tensor, weights: Tensor) -> Tensor:
    return x * weights.reshape(*weights.shape, *[1] * (x.dim() - 2))
