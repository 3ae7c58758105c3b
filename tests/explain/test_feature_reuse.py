import csv

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import nn

from densekit.classifier import Classifier
from densekit.data.pictures import read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.engine.swap import fuse
from densekit.errors import SettingsError
from densekit.explain.feature_reuse import draw_feature_reuse, feature_reuse, write_feature_reuse
from densekit.models.catalogue import create_model


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    chosen = {"block_config": (2, 3), "growth_rate": (4, 6), "num_init_features": 10, **options}
    return create_model("densenet121", num_classes=5, **chosen)


@pytest.mark.parametrize("bn_size", [4, None], ids=["bottleneck", "plain"])
def test_against_weights_written_by_hand(bn_size):
    """The weight of reader r on source s is set to +-(10 r + s): that number must come back."""
    network = small(bn_size=bn_size)
    blocks = [network.features.denseblock1, network.features.denseblock2]
    after = [network.features.transition1.conv, network.classifier]
    for block, last, inputs, growth in zip(blocks, after, (10, 9), (4, 6), strict=True):
        for r, conv in enumerate([*(layer.conv1 for layer in block.values()), last]):
            signs = torch.randint_like(conv.weight, 2) * 2 - 1
            for channel in range(conv.weight.shape[1]):
                source = 0 if channel < inputs else 1 + (channel - inputs) // growth
                conv.weight.data[:, channel] = signs[:, channel] * (10 * r + source + 1)
    first, second = feature_reuse(network)
    nan = torch.nan
    expected = torch.tensor([[1, 11, 21, 31], [nan, 12, 22, 32], [nan, nan, 23, 33], [nan, nan, nan, 34]])
    torch.testing.assert_close(first.weights, expected[:3, :3], equal_nan=True)
    torch.testing.assert_close(second.weights, expected, equal_nan=True)
    assert (first.name, first.sources, first.readers) == (
        "features.denseblock1",
        ("input", "1", "2"),
        ("1", "2", "transition"),
    )
    assert second.readers == ("1", "2", "3", "classifier")


def test_groups_read_only_their_own_channels():
    """Against the whole matrix of a grouped convolution, with nothing where two channels are not connected."""
    network = small(block_config=(2,), growth_rate=4, num_init_features=8, bn_size=None, groups=2)
    conv = network.features.denseblock1.denselayer2.conv1  # 12 channels to 4, in 2 groups
    whole = torch.full((4, 12, 3, 3), torch.nan)
    whole[:2, :6], whole[2:, 6:] = conv.weight.data.split(2)
    per_channel = whole.abs().nanmean((0, 2, 3))
    (block,) = feature_reuse(network)
    torch.testing.assert_close(block.weights[:2, 1], torch.stack([per_channel[:8].mean(), per_channel[8:].mean()]))


def test_networks_of_other_libraries_and_fused_ones():
    """The same weights in torchvision's, timm's, MONAI's and a fused network are the same figure."""
    import timm
    import torchvision
    from monai.networks.nets.densenet import DenseNet121

    stock = torchvision.models.densenet121(num_classes=5)
    ours, theirs = create_model("densenet121", num_classes=5), timm.create_model("densenet121", num_classes=5)
    ours.load_state_dict(stock.state_dict())
    monai = DenseNet121(spatial_dims=2, in_channels=3, out_channels=5)
    for network in (theirs, monai):
        values = [value for key, value in stock.state_dict().items()]
        assert len(values) == len(network.state_dict())
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    expected = feature_reuse(stock)
    assert [tuple(block.weights.shape) for block in expected] == [(7, 7), (13, 13), (25, 25), (17, 17)]
    for network in (ours, theirs, monai, fuse(ours), fuse(stock)):
        found = feature_reuse(network)
        assert [block.name for block in found] == [f"features.denseblock{i}" for i in range(1, 5)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.weights, other.weights, equal_nan=True, rtol=0, atol=0)
            assert one.readers == other.readers


@pytest.mark.parametrize("name", ["densenet40_k12_cifar", "se_densenet_bc100_k12_cifar", "densenet12_wide_cifar"])
def test_densenets_of_the_catalogue(name):
    network = create_model(name, num_classes=3)
    layers = [len(block) for key, block in network.features.named_children() if key.startswith("denseblock")]
    found = feature_reuse(network)
    assert [len(block.readers) - 1 for block in found] == layers
    assert [block.readers[-1] for block in found] == ["transition"] * (len(layers) - 1) + ["classifier"]


def test_of_a_classifier_is_that_of_its_network():
    network = create_model("densenet12_wide_cifar", num_classes=2)
    found = feature_reuse(Classifier(network, ("a", "b"), Preprocessing(size=(32, 32))))
    for one, other in zip(found, feature_reuse(network), strict=True):
        torch.testing.assert_close(one.weights, other.weights, equal_nan=True, rtol=0, atol=0)


def test_other_networks_are_refused():
    with pytest.raises(SettingsError, match="there is no dense block in this ResNet"):
        feature_reuse(create_model("resnet14_cifar", num_classes=3))


def test_files(tmp_path):
    blocks = feature_reuse(small())
    write_feature_reuse(tmp_path, blocks)
    with (tmp_path / "feature-reuse.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (1 + 2 + 3) + (1 + 2 + 3 + 4)
    last = rows[-1]
    assert (last["block"], last["source"], last["reader"]) == ("features.denseblock2", "3", "classifier")
    assert float(last["mean_absolute_weight"]) == pytest.approx(blocks[1].weights[3, 3].item(), rel=1e-5)
    assert read_picture(tmp_path / "feature-reuse.png").size == (990, 506)


def test_colours_are_shares_of_the_largest_that_each_layer_reads(tmp_path, monkeypatch):
    drawn, draw = [], Axes.imshow

    def note(axes, values, **options):
        drawn.append(values)
        return draw(axes, values, **options)

    monkeypatch.setattr(Axes, "imshow", note)
    blocks = feature_reuse(small())
    draw_feature_reuse(tmp_path / "feature-reuse.png", blocks)
    for values, block in zip(drawn, blocks, strict=True):
        largest = np.nanmax(block.weights.numpy(), axis=0)
        np.testing.assert_allclose(values, block.weights.numpy() / largest, rtol=1e-6)
