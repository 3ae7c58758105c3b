"""How many numbers a layer learns."""

from densekit.reference.convolution import Pair, as_pair, channels_per_group


def convolution_parameters(
    in_channels: int, out_channels: int, kernel: Pair, *, groups: int = 1, bias: bool = True
) -> int:
    """Count a convolution's parameters: a kernel per pair of channels, a bias per output channel.

    >>> convolution_parameters(1, 3, kernel=3)  # 3 kernels of 9, and 3 biases
    30
    >>> convolution_parameters(1, 3, kernel=3, bias=False)
    27
    """
    height, width = as_pair(kernel)
    seen = channels_per_group(in_channels, out_channels, groups)
    return out_channels * seen * height * width + bias * out_channels


def linear_parameters(in_features: int, out_features: int, *, bias: bool = True) -> int:
    """Count a linear layer's parameters.

    >>> linear_parameters(1024, 1000)
    1025000
    """
    return out_features * in_features + bias * out_features


def batch_norm_parameters(channels: int) -> int:
    """Count what batch norm learns, a scale and a shift per channel; its running statistics are not learned.

    >>> batch_norm_parameters(64)
    128
    """
    return 2 * channels
