"""The DenseNets are what Keras, MXNet and timm can build again: every option of one."""

from inspect import signature
from typing import Any

from densekit.classifier import Classifier
from densekit.errors import SettingsError
from densekit.models.densenet import CONFIGURATIONS, DenseNet


def densenet_options(classifier: Classifier, target: str) -> tuple[str, dict[str, Any]]:
    """Return the name and every option of a classifier's DenseNet, those that it has by default too.

    Raises:
        SettingsError: it is no DenseNet of pictures; names what it could be exported to.
    """
    network = getattr(classifier.network, "_orig_mod", classifier.network)  # torch.compile's wrapper
    architecture = getattr(network, "architecture", {"name": type(network).__name__, "options": {}})
    name, given = architecture["name"], architecture["options"]
    defaults = {option: parameter.default for option, parameter in signature(DenseNet).parameters.items()}
    options = defaults | given
    if name not in CONFIGURATIONS or options["spatial_dims"] != 2:
        raise SettingsError(
            f"{target} takes densekit's DenseNets of pictures, not this {name}: export it to onnx, openvino or torch"
        )
    return name, options
