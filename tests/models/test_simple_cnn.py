import pytest
import torch
from torch.nn import functional as F

from densekit.errors import SettingsError, ShapeError
from densekit.models.catalogue import count_parameters
from densekit.models.simple_cnn import SimpleCNN


@pytest.mark.parametrize(
    ("in_channels", "size"),
    [
        pytest.param(3, (32, 32), id="cifar"),
        pytest.param(1, (28, 28), id="grey"),
        pytest.param(2, (7, 13), id="odd_size"),
        pytest.param(3, (4, 4), id="smallest"),
    ],
)
def test_equals_its_description(in_channels: int, size: tuple[int, int]):
    torch.manual_seed(0)
    net = SimpleCNN(num_classes=5, in_channels=in_channels, image_size=size).double()
    state = dict(net.named_parameters())
    x = torch.randn(3, in_channels, *size, dtype=torch.float64)
    wanted = x
    for conv, norm in ((0, 1), (4, 5)):
        wanted = F.conv2d(wanted, state[f"features.{conv}.weight"], state[f"features.{conv}.bias"], padding=1)
        weight, bias = state[f"features.{norm}.weight"], state[f"features.{norm}.bias"]
        wanted = F.batch_norm(wanted, None, None, weight, bias, training=True)
        wanted = F.max_pool2d(wanted.clamp(min=0), 2)
    wanted = wanted.reshape(3, -1) @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(net.train()(x), wanted, atol=1e-10, rtol=1e-10)


def test_parameter_count_by_hand():
    convolutions = (3 * 9 * 16 + 16) + (16 * 9 * 32 + 32)
    norms = 2 * 16 + 2 * 32
    assert count_parameters(SimpleCNN(num_classes=10)) == convolutions + norms + 32 * 8 * 8 * 10 + 10


def test_other_sizes_are_refused_both_ways():
    net = SimpleCNN(num_classes=5, image_size=(8, 12))
    for size in [(8, 8), (12, 8), (12, 12)]:
        with pytest.raises(ShapeError, match=f"takes 8x12 pixels, given {size[0]}x{size[1]}"):
            net(torch.rand(2, 3, *size))
    with pytest.raises(SettingsError, match="image_size is 3x32"):
        SimpleCNN(image_size=(3, 32))
