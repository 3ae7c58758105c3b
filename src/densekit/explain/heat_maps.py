"""Heat maps of a classifier for prepared pictures, by any method."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densekit.classifier import Classifier
from densekit.console import Bar
from densekit.errors import SettingsError, ShapeError, UnknownNameError
from densekit.explain.attribution import integrated_gradients, occlusion
from densekit.explain.cam import cam, ends_linearly, grad_cam
from densekit.models.modes import evaluation_mode
from densekit.runtimes.exported import ExportedNetwork

Method = Literal["cam", "gradcam", "occlusion", "integrated-gradients"]
METHODS: dict[Method, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "cam": cam,
    "gradcam": grad_cam,
    "occlusion": occlusion,
    "integrated-gradients": integrated_gradients,
}
"""(network, pictures (N, C, H, W), classes (N,)) -> maps (N, h, w) of the method's own size."""


def heat_maps(
    classifier: Classifier,
    pictures: Tensor,
    classes: Tensor | Sequence[int] | Sequence[str],
    *,
    method: Method | None = None,
    batch_size: int = 32,
    bar: Bar | None = None,
) -> Tensor:
    """Return where on each picture the evidence for a class lies.

    Args:
        classifier: any.
        pictures: (N, C, H, W), as its preprocessing makes them.
        classes: (N,), the number or the name of the class to explain of each picture; repeat a picture to explain
            several.
        method: one of `METHODS` [cam where the network allows it, else gradcam].
        batch_size: pictures at a time.
        bar: moved on by each picture.

    Returns:
        float32 (N, H, W) on the CPU, a value for each pixel of the prepared pictures; positive speaks for the class.
        `densekit.explain.overlay.overlay` lays one over the picture it came from.

    Raises:
        UnknownNameError: no such method or class.
        SettingsError: no class of that number, or a method that cannot explain this network.
        ShapeError: not one class for each picture.
        MissingPartError: the method needs captum, which is not installed.
    """
    check_explainable(classifier, method)
    numbers = [classifier.class_number(each) if isinstance(each, str) else each for each in classes]
    classes = torch.as_tensor(classes if isinstance(classes, Tensor) else numbers)
    _check(classifier, pictures, classes, method, batch_size)
    explain = METHODS[method or choose_method(classifier, pictures)]
    network, device, maps = classifier.network, classifier.device, []
    # gradients are needed whatever the caller has switched off
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(network):
        pictures = pictures.clone() if pictures.is_inference() else pictures
        for some, wanted in zip(pictures.split(batch_size), classes.split(batch_size), strict=True):
            found = explain(network, some.to(device), wanted.to(device))[:, None].float()
            maps.append(F.interpolate(found, size=some.shape[2:], mode="bilinear")[:, 0].cpu())
            if bar:
                bar.advance(len(some))
    return torch.cat(maps)


def check_explainable(classifier: Classifier, method: Method | None = None) -> None:
    """Raise SettingsError where a method cannot look into a classifier's network."""
    if isinstance(classifier.network, ExportedNetwork) and method not in {None, "occlusion"}:
        raise SettingsError(f"{method} looks into the network, an exported one is closed: use occlusion, or the run")
    if classifier.preprocessing.in_network:
        raise SettingsError(
            "this file prepares its pictures itself, so its answers cannot be explained: explain the run, or an export "
            "without --bake-preprocessing"
        )


def choose_method(classifier: Classifier, pictures: Tensor) -> Method:
    """Return the method for pictures like these, (N, C, H, W) as prepared: the exact one, if the network allows it."""
    if isinstance(classifier.network, ExportedNetwork):
        return "occlusion"
    pictures = pictures[:1].to(classifier.device)
    with evaluation_mode(classifier.network):
        return "cam" if ends_linearly(classifier.network, pictures) else "gradcam"


def _check(classifier: Classifier, pictures: Tensor, classes: Tensor, method: Method | None, batch_size: int) -> None:
    if method is not None and method not in METHODS:
        raise UnknownNameError("method", method, list(METHODS))
    if batch_size < 1:
        raise SettingsError(f"batch_size={batch_size} must be at least 1")
    if pictures.dim() != 4 or not len(pictures) or classes.shape != (len(pictures),):
        shapes = f"{tuple(pictures.shape)} and {tuple(classes.shape)}"
        raise ShapeError(f"heat_maps takes pictures (N, C, H, W) and classes (N,) of at least one, given {shapes}")
    if classes.is_floating_point():
        raise SettingsError(f"classes are given by their numbers, not as {classes.dtype}")
    if classes.min() < 0 or classes.max() >= len(classifier.classes):
        given = sorted({int(classes.min()), int(classes.max())})
        raise SettingsError(f"classes are numbered 0 to {len(classifier.classes) - 1}, given {given}")
