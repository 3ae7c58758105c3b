"""What the last layer reads, against each network's own layers."""

import pytest
import torch
from torch import nn

from densekit.engine.swap import fuse
from densekit.errors import SettingsError
from densekit.models.catalogue import create_model
from densekit.models.ending import embed


class Softened(nn.Module):
    """Does something to what its linear layer gave."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3))).tanh()


class Convolutional(nn.Module):
    """Has no linear layer at its end, but one inside, as squeeze-and-excitation does."""

    def __init__(self):
        super().__init__()
        self.gate, self.conv = nn.Linear(3, 3), nn.Conv2d(3, 5, 3)

    def forward(self, x):
        return self.conv(x * self.gate(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))


NETWORKS = {
    "densenet": lambda: create_model("densenet121", num_classes=5, block_config=(2, 2), growth_rate=4),
    "densenet_fused": lambda: fuse(create_model("densenet121", num_classes=5, block_config=(2, 2), growth_rate=4)),
    "vgg": lambda: create_model("vgg11_bn_cifar", num_classes=5),
    "simple_cnn": lambda: create_model("simple_cnn", num_classes=5, image_size=(32, 32)),
    "vision_transformer": lambda: create_model(
        "timm:vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1, embed_dim=12, num_heads=2
    ),
    "softened": Softened,
}
"""Networks in whose end a linear layer of five outputs makes the logits."""


@pytest.mark.parametrize("name", NETWORKS)
def test_is_what_the_last_linear_layer_reads(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    last = [module for module in network.modules() if isinstance(module, nn.Linear) and module.out_features == 5][-1]
    read = []
    last.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    pictures = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        vectors = embed(network, pictures)
    assert vectors.shape == (3, last.in_features)
    assert torch.equal(vectors, read[0])


def test_is_the_last_feature_map_pooled_without_such_a_layer():
    torch.manual_seed(0)
    network, pictures = Convolutional().eval(), torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(embed(network, pictures), network(pictures))


def test_refuses_a_network_with_neither():
    with pytest.raises(SettingsError, match="Flatten has neither"):
        embed(nn.Flatten(), torch.randn(2, 3, 8, 8))
