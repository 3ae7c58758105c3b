import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion

from densekit.errors import MissingPartError
from densekit.explain.attribution import integrated_gradients, occlusion


@pytest.fixture
def network(corner_classifier):
    return corner_classifier.network


def test_integrated_gradients_are_captums_summed_over_channels(network, corner_world):
    pictures, classes, _ = corner_world
    direct = IntegratedGradients(network).attribute(pictures[:3], torch.zeros_like(pictures[:3]), classes[:3])
    torch.testing.assert_close(integrated_gradients(network, pictures[:3], classes[:3]), direct.sum(1))


def test_integrated_gradients_are_complete(network, corner_world):
    """They sum to the logit minus that of the plain picture (Sundararajan et al., proposition 1)."""
    pictures, classes, _ = corner_world
    with torch.no_grad():
        logits = network(pictures) - network(torch.zeros_like(pictures))
    change = logits.gather(1, classes[:, None])[:, 0]
    found = integrated_gradients(network, pictures, classes).sum((1, 2))
    assert ((found - change).abs() / change.abs()).max() < 0.05


def test_occlusion_is_captums(network, corner_world):
    pictures, classes, _ = corner_world
    windows = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4)}
    direct = Occlusion(network).attribute(pictures[:2], target=classes[:2], **windows)
    torch.testing.assert_close(occlusion(network, pictures[:2], classes[:2]), direct.mean(1))


def test_occlusion_by_hand(network, corner_world):
    """The corner pixel is hidden by one window only: its value is what hiding that window changes."""
    picture, label = corner_world.pictures[:1], corner_world.classes[:1]
    hidden = picture.clone()
    hidden[:, :, :8, :8] = 0
    with torch.no_grad():
        change = (network(picture) - network(hidden))[0, label]
    torch.testing.assert_close(occlusion(network, picture, label)[0, :1, 0], change)


@pytest.mark.parametrize("method", [occlusion, integrated_gradients])
def test_without_captum(network, corner_world, monkeypatch, method):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(MissingPartError, match=r'pip install "densekit\[explain\]"'):
        method(network, corner_world.pictures[:1], corner_world.classes[:1])
