import pytest
import torch
import torchvision
from torch import nn

from densekit.errors import SettingsError
from densekit.models.catalogue import count_parameters
from densekit.models.vgg import VGG


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_features_have_torchvisions_keys_and_shapes(depth: int):
    with torch.device("meta"):
        ours, theirs = VGG(depth), torchvision.models.get_model(f"vgg{depth}_bn")
    pairs = [[(k, v.shape) for k, v in net.features.state_dict().items()] for net in (ours, theirs)]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize("size", [(32, 32), (65, 40)], ids=["smallest", "odd_size"])
def test_vgg11_features_equal_torchvisions(size: tuple[int, int]):
    torch.manual_seed(0)
    ours = VGG(11, num_classes=5).double().eval()
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True).double().eval()
    for module in features:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.weight.data.uniform_(0.5, 1.5)
    ours.features.load_state_dict(features.state_dict(), strict=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours.forward_features(x), features(x), atol=1e-10, rtol=1e-10)


def test_initialisation_is_torchvisions():
    torch.manual_seed(0)
    model = VGG(11)
    for conv in (module for module in model.features if isinstance(module, nn.Conv2d)):
        wanted = (2 / (9 * conv.out_channels)) ** 0.5  # Kaiming, fan out
        assert conv.weight.std().item() == pytest.approx(wanted, rel=0.06)
        assert not conv.bias.any()
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize(
    # kuangliu/pytorch-cifar's networks, which have this head
    ("depth", "published"),
    [(11, 9_231_114), (13, 9_416_010), (16, 14_728_266), (19, 20_040_522)],
)
def test_published_parameter_counts(depth: int, published: int):
    with torch.device("meta"):
        assert count_parameters(VGG(depth, num_classes=10)) == published


def test_unknown_depth():
    with pytest.raises(SettingsError, match="depth is 12, must be one of 11, 13, 16, 19"):
        VGG(12)
