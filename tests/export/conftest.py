from collections.abc import Callable

import pytest
import torch
from torch import nn

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.models.catalogue import create_model

Make = Callable[..., Classifier]


def scramble(network: nn.Module) -> None:
    """Give every batch norm statistics, scales (negative ones too) and shifts such as training leaves behind."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 0.7, 0.5)
            nn.init.normal_(module.bias, 0, 0.3)


@pytest.fixture(scope="session")
def make() -> Make:
    """Make a classifier of four classes with an untrained network: ``make("vgg11_bn_cifar", size=(32, 32))``."""

    def build(name: str, size: tuple[int, int] = (32, 32), in_channels: int = 3, **options) -> Classifier:
        torch.manual_seed(0)
        network = create_model(name, num_classes=4, in_channels=in_channels, **options).eval()
        scramble(network)
        preprocessing = Preprocessing(channels=in_channels, size=size, mean=(0.45,), std=(0.25,))
        return Classifier(network, ("a", "b", "c", "d"), preprocessing)

    return build
