"""Attributions of captum: what the pixels themselves contribute to a logit.

Both compare the picture with a plain one, zero after the preprocessing: the mean colour of the training pictures,
where the preprocessing subtracts that.
"""

from torch import Tensor, nn

from densekit.optional import require

_STEPS = 50  # of the integral; captum's own default


def occlusion(network: nn.Module, pictures: Tensor, classes: Tensor) -> Tensor:
    """How much a logit falls when a window of the picture is hidden.

    The window is a quarter of the picture high and wide and moves by half of itself; a pixel gets the mean over the
    windows that hid it.

    Args:
        network: in evaluation mode.
        pictures: (N, C, H, W), on the network's device.
        classes: int64 (N,), the logit to explain of each picture.

    Returns:
        (N, H, W), in logits; negative where hiding helps the class.

    Raises:
        MissingPartError: captum is not installed.

    Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.2.
    """
    attr = require("captum.attr", extra="explain")
    C, H, W = pictures.shape[1:]
    window = (C, max(1, H // 4), max(1, W // 4))
    change = attr.Occlusion(network).attribute(
        pictures,
        target=classes,
        sliding_window_shapes=window,
        strides=(C, max(1, window[1] // 2), max(1, window[2] // 2)),
    )
    return change[:, 0]  # all channels are hidden together and carry the same value


def integrated_gradients(network: nn.Module, pictures: Tensor, classes: Tensor) -> Tensor:
    """The gradient of a logit, integrated on the straight way from a plain picture to this one.

    The sum over a map is the logit of the picture minus that of the plain one, up to the error of the
    integral.

    Args:
        network: in evaluation mode, differentiable.
        pictures: (N, C, H, W), on the network's device.
        classes: int64 (N,), the logit to explain of each picture.

    Returns:
        (N, H, W), summed over channels; negative speaks against the class.

    Raises:
        MissingPartError: captum is not installed.

    Source: Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017, section 3.
    """
    attr = require("captum.attr", extra="explain")
    integrated = attr.IntegratedGradients(network).attribute(
        pictures, target=classes, n_steps=_STEPS, internal_batch_size=len(pictures)
    )
    return integrated.sum(1)
