"""Class activation maps: where on the last feature map the evidence for a class lies."""

import torch
from torch import Tensor, nn

from densekit.errors import SettingsError
from densekit.models.ending import run_to_ending


@torch.no_grad()
def ends_linearly(network: nn.Module, pictures: Tensor) -> bool:
    """Return whether `cam` can explain a network for such pictures: (N, C, H, W), of which only the first is used."""
    return run_to_ending(network, pictures[:1]).weight is not None


@torch.no_grad()
def cam(network: nn.Module, pictures: Tensor, classes: Tensor) -> Tensor:
    """Class activation map: the parts of a logit, position by position.

    The mean of a map over its positions is the logit minus the linear layer's bias, exactly: nothing is approximated.

    Args:
        network: in evaluation mode; ends in global average pooling and one linear layer, or in one linear layer that
            sees every position.
        pictures: (N, C, H, W), on the network's device.
        classes: int64 (N,), the logit to explain of each picture.

    Returns:
        (N, h, w), the size of the last feature map; positive speaks for the class, negative against it.

    Raises:
        SettingsError: the network ends otherwise.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, 2016, section 2.
    """
    ending = run_to_ending(network, pictures)
    if ending.weight is None:
        kind = type(network).__name__
        raise SettingsError(
            f"cam explains logits that one linear layer computes from a feature map of several positions (global "
            f"average pooling in between), not this {kind} at this picture size: use gradcam"
        )
    features = ending.features
    return (ending.weight[classes] * features).sum(1) * features[0, 0].numel()


def grad_cam(network: nn.Module, pictures: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM: the last feature map, its channels weighted by the mean gradient of the logit; never negative.

    For a network that ends in global average pooling and a linear layer it is the positive part of `cam`, divided by
    the number of positions.

    Args:
        network: in evaluation mode, differentiable.
        pictures: (N, C, H, W), on the network's device.
        classes: int64 (N,), the logit to explain of each picture.

    Returns:
        (N, h, w), the size of the last feature map that has more than one position.

    Raises:
        SettingsError: the network has no such feature map.

    Source: Selvaraju et al., Grad-CAM, 2017, equations 1 and 2.
    """
    with torch.enable_grad():
        # asked of the pictures, so that there is a graph even where all weights are frozen
        ending = run_to_ending(network, pictures.detach().requires_grad_())
        chosen = ending.logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, ending.features)
    weights = gradient.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    return (weights * ending.features.detach()).sum(1).clamp(min=0)
