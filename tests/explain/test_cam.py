import pytest
import torch
from torch import nn

from densekit.explain.cam import cam, grad_cam


def final_bias(network: nn.Module) -> torch.Tensor:
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1].bias


CLASSES = torch.tensor([4, 0, 2])


def test_cam_averages_to_the_logit_without_bias(linear_ending, pictures):
    maps = cam(linear_ending, pictures, CLASSES)
    with torch.no_grad():
        logits = linear_ending(pictures)[range(3), CLASSES] - final_bias(linear_ending)[CLASSES]
    assert maps.shape[0] == 3
    assert maps[0].numel() > 1
    torch.testing.assert_close(maps.mean((1, 2)), logits, rtol=1e-9, atol=1e-9)
    assert maps.flatten(1).std(1).min() > 1e-4  # not just the logit everywhere


def test_grad_cam_is_the_positive_part_of_cam(linear_ending, pictures):
    if type(linear_ending).__name__ == "SimpleCNN":
        pytest.skip("no global pooling: every position has weights of its own, which Grad-CAM averages")
    maps = cam(linear_ending, pictures, CLASSES)
    expected = maps.clamp(min=0) / maps[0].numel()
    torch.testing.assert_close(grad_cam(linear_ending, pictures, CLASSES), expected, rtol=1e-7, atol=1e-9)
