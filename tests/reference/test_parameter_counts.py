import pytest
from torch import nn

from densekit.errors import SettingsError
from densekit.reference.parameter_counts import (
    batch_norm_parameters,
    convolution_parameters,
    linear_parameters,
)


def learned(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_3x3_convolution_from_1_to_3_channels_has_30():
    assert convolution_parameters(1, 3, kernel=3) == 30


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_layers_equal_pytorch(bias):
    assert convolution_parameters(6, 9, (3, 5), groups=3, bias=bias) == learned(
        nn.Conv2d(6, 9, (3, 5), groups=3, bias=bias)
    )
    assert linear_parameters(7, 5, bias=bias) == learned(nn.Linear(7, 5, bias=bias))
    assert batch_norm_parameters(11) == learned(nn.BatchNorm2d(11))


@pytest.mark.parametrize(
    ("blocks", "growth_rate", "channels", "published"),
    [
        ((6, 12, 24, 16), 32, 64, 7_978_856),
        ((6, 12, 32, 32), 32, 64, 14_149_480),
        ((6, 12, 48, 32), 32, 64, 20_013_928),
        ((6, 12, 36, 24), 48, 96, 28_681_000),
    ],
    ids=["densenet121", "densenet169", "densenet201", "densenet161"],
)
def test_layers_add_up_to_the_published_networks(blocks, growth_rate, channels, published):
    total = convolution_parameters(3, channels, 7, bias=False) + batch_norm_parameters(channels)
    wide = 4 * growth_rate
    for layers in blocks:
        if layers != blocks[0]:  # a transition stands between two blocks
            total += batch_norm_parameters(channels)
            total += convolution_parameters(channels, channels // 2, 1, bias=False)
            channels //= 2
        for _ in range(layers):
            total += batch_norm_parameters(channels) + convolution_parameters(channels, wide, 1, bias=False)
            total += batch_norm_parameters(wide) + convolution_parameters(wide, growth_rate, 3, bias=False)
            channels += growth_rate
    assert total + batch_norm_parameters(channels) + linear_parameters(channels, 1000) == published


def test_groups_must_divide_the_channels():
    with pytest.raises(SettingsError, match="groups must divide both"):
        convolution_parameters(4, 6, 3, groups=4)
