"""A DenseNet made of linear layers, for tables: every layer sees all the features computed before it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densekit.errors import SettingsError
from densekit.models.checks import check_input


def _norm_relu_linear(in_features: int, out_features: int) -> list[nn.Module]:
    return [nn.BatchNorm1d(in_features), nn.ReLU(), nn.Linear(in_features, out_features)]


class GrowthLayer(nn.Sequential):
    """BN-ReLU-linear(-dropout) whose output is concatenated behind its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C) to (N, C + growth_rate)."""
        return torch.cat([input, super().forward(input)], 1)


class DenseMLP(nn.Module):
    """DenseNet for tabular data, with linear layers in the place of convolutions.

    A linear stem of ``2 * growth_rate`` features, dense blocks with transitions between that narrow the
    features, then batch norm, ReLU and the output layer. Takes (N, in_features), best standardised, and
    returns (N, out_features); scale regression targets to about unit variance.

    Args:
        in_features: number of columns.
        block_config: layers in each dense block.
        growth_rate: features each layer adds.
        compression: share of the features that a transition keeps, above 0 and up to 1.
        out_features: number of outputs, 1 for one regression target.
        dropout: probability of dropping a layer's new features in training.

    Raises:
        SettingsError: a compression outside 0..1.
        ShapeError: on forward, an input that does not fit.

    Source: the connectivity of Huang et al., Densely Connected Convolutional Networks, section 3.
    """

    minimum_size = 1

    def __init__(
        self,
        in_features: int,
        block_config: Sequence[int] = (4, 4),
        growth_rate: int = 32,
        compression: float = 0.5,
        out_features: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not 0 < compression <= 1:
            raise SettingsError(f"DenseMLP: compression is {compression}, must be above 0 and up to 1")
        self.in_features = in_features
        self.out_features = out_features
        width = 2 * growth_rate
        self.features = nn.Sequential(nn.Linear(in_features, width))
        for block, layers in enumerate(block_config):
            if block > 0:
                narrow = max(1, int(width * compression))
                self.features.append(nn.Sequential(*_norm_relu_linear(width, narrow)))
                width = narrow
            for _ in range(layers):
                self.features.append(GrowthLayer(*_norm_relu_linear(width, growth_rate), nn.Dropout(dropout)))
                width += growth_rate
        self.features.extend([nn.BatchNorm1d(width), nn.ReLU()])
        self.head = nn.Linear(width, out_features)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features that the output layer sees, (N, width)."""
        check_input(x, network="DenseMLP", in_channels=self.in_features, dims=0, minimum_size=1)
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (N, out_features)."""
        return self.head(self.forward_features(x))
