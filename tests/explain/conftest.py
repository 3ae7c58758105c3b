"""Networks of every ending, and a world in which each picture has its class in one corner."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.engine.swap import fuse
from densekit.models.catalogue import create_model

SIZE = 32


def small_densenet(**options: object) -> nn.Module:
    chosen = {"block_config": (2, 3), "growth_rate": 6, "num_init_features": 12, "stem": "cifar", **options}
    return create_model("densenet121", num_classes=5, **chosen)


STOCK = {"growth_rate": 6, "block_config": (2, 3), "num_classes": 5}


def torchvision_densenet() -> nn.Module:
    from torchvision.models.densenet import DenseNet

    return DenseNet(num_init_features=12, **STOCK)


def torchvision_resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def timm_densenet() -> nn.Module:
    from timm.models.densenet import DenseNet

    return DenseNet(**STOCK)


def monai_densenet() -> nn.Module:
    from monai.networks.nets.densenet import DenseNet

    chosen = {"init_features": 12, "growth_rate": 6, "block_config": (2, 3)}
    return DenseNet(spatial_dims=2, in_channels=3, out_channels=5, **chosen)


LINEAR_ENDINGS = {
    "densenet": small_densenet,
    "densenet_plain": lambda: small_densenet(bn_size=None),
    "densenet_fused": lambda: fuse(small_densenet()),
    "densenet_sigmoid": lambda: small_densenet(activation="sigmoid"),
    "se_densenet": lambda: small_densenet(se_reduction=4),
    "resnet14": lambda: create_model("resnet14_cifar", num_classes=5),
    "se_resnet14": lambda: create_model("se_resnet14_cifar", num_classes=5),
    "resnet20_padded": lambda: create_model("resnet20_cifar", num_classes=5),
    "vgg": lambda: create_model("vgg11_bn_cifar", num_classes=5),
    "simple_cnn": lambda: create_model("simple_cnn", num_classes=5, image_size=(64, 96)),
    "torchvision_densenet": torchvision_densenet,
    "torchvision_densenet_fused": lambda: fuse(torchvision_densenet()),
    "torchvision_resnet": torchvision_resnet,
    "timm_densenet": timm_densenet,
    "timm_densenet_fused": lambda: fuse(timm_densenet()),
    "monai_densenet": monai_densenet,
}
"""Networks whose logits are linear in their last feature map, for pictures of 64x96 pixels."""


@pytest.fixture(params=LINEAR_ENDINGS)
def linear_ending(request) -> nn.Module:
    """A network in float64, whose batch norms have seen something and whose bias is not zero."""
    torch.manual_seed(0)
    network = LINEAR_ENDINGS[request.param]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    nn.init.normal_(last_linear(network).bias)
    return network.double().eval()


def last_linear(network: nn.Module) -> nn.Linear:
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


@pytest.fixture
def pictures() -> Tensor:
    """Three pictures, higher than one stride and not square."""
    return torch.randn(3, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def red_finder() -> Classifier:
    """Made by hand: where a picture is red rather than green, its map is that much above zero, and nothing else."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    state = {"0.weight": torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1), "0.bias": torch.zeros(1)}
    state |= {"4.weight": torch.tensor([[1.0], [-1.0]]), "4.bias": torch.zeros(2)}
    network.load_state_dict(state)
    return Classifier(network.eval(), ("red", "not red"), Preprocessing(size=(32, 32)))


class Corner(NamedTuple):
    """A quarter of a picture that holds what makes its class: (N, C, SIZE, SIZE), classes (N,), corners (N, 2)."""

    pictures: Tensor
    classes: Tensor
    corners: Tensor

    def share(self, maps: Tensor) -> Tensor:
        """Share (N,) of the positive heat of maps (N, SIZE, SIZE) that lies in the right quarter."""
        half, heat = SIZE // 2, maps.clamp(min=0)
        inside = [
            one[row * half : (row + 1) * half, column * half : (column + 1) * half].sum() / one.sum()
            for one, (row, column) in zip(heat, self.corners.tolist(), strict=True)
        ]
        return torch.stack(inside)


def corner_pictures(count: int, seed: int) -> Corner:
    """Noise, with a patch of stripes somewhere in one quarter: class 0 lying, class 1 upright."""
    random = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=random)
    classes = torch.randint(2, (count,), generator=random)
    corners = torch.randint(2, (count, 2), generator=random)
    stripes = torch.tensor([2.0, 2.0, -2.0, -2.0]).repeat(2)  # (8,)
    for picture, label, (row, column) in zip(pictures, classes.tolist(), corners.tolist(), strict=True):
        y, x = row * SIZE // 2 + 4, column * SIZE // 2 + 4
        picture[:, y : y + 8, x : x + 8] += stripes[None] if label else stripes[:, None]
    return Corner(pictures, classes, corners)


@pytest.fixture(scope="session")
def corner_classifier() -> Classifier:
    """A small DenseNet that has learned `corner_pictures` in seconds."""
    torch.manual_seed(0)
    network = create_model(
        "densenet121", num_classes=2, block_config=(2, 2), growth_rate=8, num_init_features=8, stem="cifar"
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(40):
        world = corner_pictures(24, seed=step)
        loss = nn.functional.cross_entropy(network(world.pictures), world.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Classifier(network.eval(), ("lying", "upright"), Preprocessing(size=(SIZE, SIZE)))


@pytest.fixture(scope="session")
def corner_world() -> Corner:
    """Pictures that the classifier has not learned from."""
    return corner_pictures(16, seed=1000)
