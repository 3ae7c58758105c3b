"""Dense block and transition against torchvision's in float64: outputs, and buffers after two steps."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.densenet import _DenseBlock, _DenseLayer, _Transition

from densekit.errors import CheckpointError, ShapeError
from densekit.reference.dense_block import dense_block, dense_layer, transition


class PlainLayer(nn.Sequential):
    """BN-ReLU-conv3x3 under torchvision's names."""

    def __init__(self, channels: int, growth_rate: int, *, bias: bool = False):
        super().__init__()
        self.add_module("norm1", nn.BatchNorm2d(channels))
        self.add_module("relu1", nn.ReLU())
        self.add_module("conv1", nn.Conv2d(channels, growth_rate, 3, padding=1, bias=bias))


class PlainBlock(nn.Module):
    """Plain layers under torchvision's names, each fed with everything before it."""

    def __init__(self, layers: int, channels: int, growth_rate: int):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", PlainLayer(channels + i * growth_rate, growth_rate))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            features = torch.cat([features, layer(features)], dim=1)
        return features


def bottleneck_layer(channels: int, growth_rate: int) -> nn.Module:
    return _DenseLayer(channels, growth_rate, bn_size=4, drop_rate=0.0)


def bottleneck_block(layers: int, channels: int, growth_rate: int) -> nn.Module:
    return _DenseBlock(layers, channels, bn_size=4, growth_rate=growth_rate, drop_rate=0.0)


def randomised(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that a slip could not hide behind (not 0, not 1)."""
    torch.manual_seed(5)
    for name, value in module.double().state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_()
    return module


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.clone().numpy() for name, value in module.state_dict().items()}


def check_equal(ours, module: nn.Module, shape: tuple[int, ...], random, *, training: bool) -> None:
    """Compare two steps, so that the second starts from updated buffers."""
    parameters = arrays(randomised(module).train(training))
    for images in random.normal(1, 2, size=(2, *shape)):
        expected = module(torch.from_numpy(images)).detach().numpy()
        output, buffers = ours(images, parameters, training=training)
        assert bool(buffers) == training
        parameters |= buffers
        np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)
    after = arrays(module)
    assert parameters.keys() == after.keys()
    for name, value in after.items():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-9, err_msg=name)


TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
SHAPES = pytest.mark.parametrize(
    "shape", [(2, 3, 1, 1), (3, 5, 7, 4), (1, 8, 6, 6)], ids=["one_pixel", "odd_channels", "batch_of_one"]
)


@TRAINING
@SHAPES
@pytest.mark.parametrize("build", [PlainLayer, bottleneck_layer], ids=["plain", "bottleneck"])
def test_dense_layer_equals_torchvision(random, build, shape, training):
    check_equal(dense_layer, build(shape[1], 4), shape, random, training=training)


@TRAINING
@SHAPES
@pytest.mark.parametrize("build", [PlainBlock, bottleneck_block], ids=["plain", "bottleneck"])
def test_dense_block_equals_torchvision(random, build, shape, training):
    check_equal(dense_block, build(3, shape[1], 4), shape, random, training=training)


def test_more_than_nine_layers_keep_their_order(random):
    check_equal(dense_block, bottleneck_block(11, 3, 2), (2, 3, 4, 4), random, training=True)


@TRAINING
@pytest.mark.parametrize(
    "shape", [(2, 3, 2, 2), (3, 5, 7, 4), (1, 8, 6, 6)], ids=["one_window", "odd_size", "batch_of_one"]
)
def test_transition_equals_torchvision(random, shape, training):
    check_equal(transition, _Transition(shape[1], 4), shape, random, training=training)


def test_a_bias_is_not_ignored(random):
    check_equal(dense_layer, PlainLayer(3, 4, bias=True), (2, 3, 5, 5), random, training=False)


@pytest.mark.parametrize(
    ("shape", "layers", "growth_rate", "after_block", "narrowed", "after_transition"),
    [
        ((1, 3, 96, 96), 3, 12, (1, 39, 96, 96), 12, (1, 12, 48, 48)),
        ((4, 3, 8, 8), 2, 10, (4, 23, 8, 8), 10, (4, 10, 4, 4)),
    ],
    ids=["three_layers_of_12", "two_layers_of_10"],
)
def test_shapes_on_paper(random, shape, layers, growth_rate, after_block, narrowed, after_transition):
    images = random.normal(size=shape)
    features, _ = dense_block(images, arrays(PlainBlock(layers, 3, growth_rate).double()))
    assert features.shape == after_block
    np.testing.assert_array_equal(features[:, :3], images)  # the block passes its input on
    narrow, _ = transition(features, arrays(_Transition(after_block[1], narrowed).double()))
    assert narrow.shape == after_transition


def test_transition_from_3_to_12_channels(random):
    output, _ = transition(random.normal(size=(1, 3, 96, 96)), arrays(_Transition(3, 12).double()))
    assert output.shape == (1, 12, 48, 48)


def test_errors():
    parameters = arrays(bottleneck_block(2, 3, 4))
    with pytest.raises(CheckpointError, match=r"no parameters for conv1; there are: denselayer1\.conv1\.weight"):
        dense_layer(np.zeros((1, 3, 4, 4)), parameters)
    with pytest.raises(CheckpointError, match=r"no parameters for denselayer1; there are: conv1\.weight"):
        dense_block(np.zeros((1, 3, 4, 4)), arrays(PlainLayer(3, 4)))
    with pytest.raises(CheckpointError, match="no parameters for conv1; there are: none"):
        dense_layer(np.zeros((1, 3, 4, 4)), {})
    with pytest.raises(ShapeError, match=r"this batch norm needs \(N, 3, ...\)"):
        dense_block(np.zeros((1, 5, 4, 4)), parameters)
