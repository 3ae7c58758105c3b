"""The networks by name: one table from name to builder and its options."""

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from inspect import Parameter, signature
from typing import Any

from torch import nn

from densekit.errors import SettingsError, UnknownNameError
from densekit.models import densenet, resnet, simple_cnn, vgg
from densekit.models.timm_networks import is_timm, list_timm, timm_builder, timm_options, timm_size
from densekit.models.transfer import head_name

_TABLE: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    name: (builder, options)
    for builder, configurations in (
        (densenet.DenseNet, densenet.CONFIGURATIONS),
        (resnet.ResNet, resnet.CONFIGURATIONS),
        (vgg.VGG, vgg.CONFIGURATIONS),
        (simple_cnn.SimpleCNN, simple_cnn.CONFIGURATIONS),
    )
    for name, options in configurations.items()
}

_ELSEWHERE = {"pretrained": "weights='imagenet'", "in_chans": "in_channels", "n_classes": "num_classes"}
"""Names of options in other libraries, each with what it is called here."""


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `create_model` knows, family by family.

    Args:
        pattern: a part of the name, or a pattern with ``*``, ``?`` and ``[...]``; upper case counts as lower. One that
            begins with ``timm:`` lists timm's networks.

    Raises:
        MissingPartError: timm's are asked for, and it is not installed.

    >>> list_models("vgg")
    ['vgg11_bn_cifar', 'vgg13_bn_cifar', 'vgg16_bn_cifar', 'vgg19_bn_cifar']
    >>> list_models("resnet1??")
    ['resnet101', 'resnet152']
    """
    pattern = pattern.lower()
    names = list_timm() if is_timm(pattern) else _TABLE
    return [name for name in names if pattern in name or fnmatchcase(name, pattern)]


def _find(name: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """Return what builds a network, and with which options."""
    if is_timm(name):
        return timm_builder(name), {}
    if name not in _TABLE:
        raise UnknownNameError("model", name, list(_TABLE))
    return _TABLE[name]


def model_options(name: str) -> list[str]:
    """Return the options that a network has besides ``num_classes`` and ``in_channels``.

    Raises:
        UnknownNameError: no network of that name.
        MissingPartError: it is one of timm's, which is not installed.

    >>> model_options("simple_cnn")
    ['image_size']
    """
    if is_timm(name):
        return timm_options(name)
    parameters = signature(_find(name)[0]).parameters
    return [option for option in parameters if option not in ("num_classes", "in_channels")]


def option_values(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return these options of a network, and the others as its name and its class have them; values as in JSON.

    >>> option_values("densenet121", {"growth_rate": 24})["activation"]
    'relu'
    """
    builder, named = _find(name)
    parameters = signature(builder).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not Parameter.empty}
    return json.loads(json.dumps({**defaults, **named, **options}))


def picture_size(name: str) -> int:
    """Return the pixels on each side of the pictures that a network of the catalogue was made for.

    >>> picture_size("densenet121"), picture_size("resnet20_cifar")
    (224, 32)
    """
    if is_timm(name):
        return timm_size(name)
    return 32 if name.endswith("_cifar") or name == "simple_cnn" else 224


def create_model(name: str, *, num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
    """Build a network by name, with fresh random weights.

    The network carries ``architecture``, a plain record from which it can be built again:
    ``create_model(record["name"], **record["options"])``.

    Args:
        name: a name from `list_models`, or ``timm:NAME``.
        num_classes: number of logits; 0 leaves out the last layer, so that the network gives what it would read.
        in_channels: channels of the input pictures.
        options: further arguments of the network's class, in place of the named configuration's; lists from
            JSON or YAML serve as tuples.

    Raises:
        UnknownNameError: no network of that name.
        MissingPartError: it is one of timm's, which is not installed.
        SettingsError: an option that the network does not have, or a value that cannot work.

    >>> create_model("simple_cnn", num_classes=10, image_size=[28, 28]).architecture["options"]
    {'image_size': [28, 28], 'num_classes': 10, 'in_channels': 3}
    """
    known = model_options(name)
    builder, defaults = _find(name)
    for option in options:
        if option not in known:
            if option in _ELSEWHERE:
                raise SettingsError(f"{name} has no option {option!r}; here it is {_ELSEWHERE[option]}")
            raise SettingsError(f"{name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    for label, count, least in (("num_classes", num_classes, 0), ("in_channels", in_channels, 1)):
        if not isinstance(count, int) or count < least:
            raise SettingsError(f"{name}: {label} is {count!r}, must be a whole number of at least {least}")
    options = {**defaults, **options, "num_classes": num_classes, "in_channels": in_channels}
    record = _plain(name, options)
    try:
        model = builder(**options) if num_classes or is_timm(name) else _without_head(builder, options)
    except (TypeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{name} cannot be built with {options}: {error}") from None
    model.architecture = record  # pyright: ignore[reportArgumentType] (a plain attribute)
    return model


def _without_head(builder: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    model: Any = builder(**{**options, "num_classes": 1})
    head = head_name(model)
    if head is not None:  # else it gives features anyway
        setattr(model, head, nn.Identity())
    model.num_classes = 0
    return model


def _plain(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a network as it will be read back from JSON."""
    try:
        return {"name": name, "options": json.loads(json.dumps(options))}
    except TypeError as error:
        advice = "give plain numbers, strings and lists, which can be saved with the weights"
        raise SettingsError(f"{name}: an option cannot be saved ({error}): {advice}") from None


def count_parameters(model: nn.Module) -> int:
    """Return the number of a network's parameters, trainable or not.

    >>> count_parameters(nn.Conv2d(1, 3, kernel_size=3))
    30
    """
    return sum(parameter.numel() for parameter in model.parameters())
