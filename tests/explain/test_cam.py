import pytest
import torch
from torch import nn

from densekit.engine.choose_ops import choose_ops
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.errors import SettingsError
from densekit.explain.cam import cam, ends_linearly, grad_cam
from densekit.models.catalogue import create_model

CLASSES = torch.tensor([4, 0, 2])


def final_bias(network: nn.Module) -> torch.Tensor:
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1].bias


class MaxPooled(nn.Module):
    """Ends in a maximum instead of a mean."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(x).amax((2, 3)))


class TwoLinear(MaxPooled):
    """Ends in a mean and two linear layers."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.hidden(self.conv(x).mean((2, 3))).relu())


class Softened(MaxPooled):
    """Does something to what the linear layer gave."""

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3))).tanh()


OTHER_ENDINGS = {"max_pooling": MaxPooled, "two_linear_layers": TwoLinear, "after_the_linear_layer": Softened}


def test_cam_averages_to_the_logit_without_bias(linear_ending, pictures):
    maps = cam(linear_ending, pictures, CLASSES)
    with torch.no_grad():
        logits = linear_ending(pictures)[range(3), CLASSES] - final_bias(linear_ending)[CLASSES]
    assert maps.shape[0] == 3
    torch.testing.assert_close(maps.mean((1, 2)), logits, rtol=1e-9, atol=1e-9)
    assert maps.flatten(1).std(1).min() > 1e-4  # not just the logit everywhere


@pytest.mark.parametrize("explain", [cam, grad_cam])
def test_fused_blocks_stay_fused_while_they_are_watched(explain, pictures):
    """Their inside is not how a network ends."""
    network = fuse(create_model("densenet12_wide_cifar", num_classes=5).double().eval())
    explain(network, pictures, CLASSES)
    ran = {module.ran for module in network.modules() if isinstance(module, Fused)}
    assert ran == {choose_ops("auto", "cpu").name}


def test_grad_cam_is_the_positive_part_of_cam(linear_ending, pictures):
    if type(linear_ending).__name__ == "SimpleCNN":
        pytest.skip("no global pooling: every position has weights of its own, which Grad-CAM averages")
    maps = cam(linear_ending, pictures, CLASSES)
    expected = maps.clamp(min=0) / maps[0].numel()
    torch.testing.assert_close(grad_cam(linear_ending, pictures, CLASSES), expected, rtol=1e-7, atol=1e-9)


def test_cam_of_a_densenet_reads_the_features_behind_the_last_relu(pictures):
    """Against the paper's formula, with the feature map that the network itself names."""
    torch.manual_seed(0)
    network = create_model("densenet121", num_classes=5, block_config=(2, 2), growth_rate=4).double().eval()
    with torch.no_grad():
        features = network.forward_features(pictures)
    expected = torch.einsum("nc,nchw->nhw", network.classifier.weight[CLASSES], features)
    torch.testing.assert_close(cam(network, pictures, CLASSES), expected.detach())


@pytest.mark.parametrize("ending", OTHER_ENDINGS)
def test_cam_is_refused_where_it_would_not_be_exact(ending, pictures):
    torch.manual_seed(0)
    network = OTHER_ENDINGS[ending]().double()
    assert not ends_linearly(network, pictures)
    with pytest.raises(SettingsError, match="use gradcam"):
        cam(network, pictures, CLASSES)
    assert grad_cam(network, pictures, CLASSES).shape == (3, 62, 94)


def test_grad_cam_against_its_equations(pictures):
    """Equations 1 and 2 of the paper, on a network with a nonlinear ending, with a hook for the gradient."""
    torch.manual_seed(0)
    network, kept = TwoLinear().double(), []
    network.conv.register_forward_hook(lambda module, given, out: (out.retain_grad(), kept.append(out))[0])
    network(pictures)[range(3), CLASSES].sum().backward()
    (features,) = kept
    alpha = features.grad.sum((2, 3)) / features[0, 0].numel()
    expected = torch.relu(torch.einsum("nc,nchw->nhw", alpha, features)).detach()
    network.conv._forward_hooks.clear()
    torch.testing.assert_close(grad_cam(network, pictures, CLASSES), expected)


def test_one_last_position_is_no_map(pictures):
    """A VGG leaves one position of 32x32 pixels: the map before its last pooling is taken."""
    torch.manual_seed(0)
    network = create_model("vgg11_bn_cifar", num_classes=5).double().eval()
    small = pictures[:, :, :32, :32]
    assert not ends_linearly(network, small)
    assert grad_cam(network, small, CLASSES).shape == (3, 2, 2)
    assert ends_linearly(network, pictures)


def test_works_on_a_frozen_network_and_leaves_it_as_it_was(pictures):
    torch.manual_seed(0)
    network = create_model("resnet14_cifar", num_classes=5).double().eval().requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert grad_cam(network, pictures, CLASSES).shape == (3, 16, 24)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
    assert not pictures.requires_grad
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def test_network_without_a_feature_map():
    network = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, -1)), nn.Linear(27, 5))
    with pytest.raises(SettingsError, match="Sequential shows no feature map: use occlusion"):
        cam(network, torch.randn(3, 27, 1, 1), CLASSES)
