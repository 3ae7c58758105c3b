"""The networks of timm, called ``timm:NAME`` wherever densekit takes a network by name."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn

from densekit.errors import SettingsError, UnknownNameError
from densekit.optional import require

PREFIX = "timm:"
_NOT_OPTIONS = {"num_classes", "in_chans", "device", "dtype", "args"}  # densekit's own, or no choice


def is_timm(name: str) -> bool:
    """Whether a name is of one of timm's networks."""
    return name.startswith(PREFIX)


def list_timm() -> list[str]:
    """Return the names of all of timm's networks.

    Raises:
        MissingPartError: timm is not installed.
    """
    return [PREFIX + name for name in require("timm", extra="timm").list_models()]


def timm_builder(name: str) -> Callable[..., nn.Module]:
    """Return what builds one of timm's networks, with random weights, from ``(num_classes, in_channels, **options)``.

    Args:
        name: ``timm:NAME``, with or without the tag of its weights.

    Raises:
        MissingPartError: timm is not installed.
        UnknownNameError: timm has no such network.
    """
    timm, inner = require("timm", extra="timm"), _checked(name)

    def build(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
        try:
            return timm.create_model(inner, num_classes=num_classes, in_chans=in_channels, **options)
        except Exception as error:  # an assertion, shapes that do not fit, ...: timm checks options in many ways
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(reason) from error

    return build


def timm_options(name: str) -> list[str]:
    """Return the arguments of a network's class; timm's own ones, which read files or load weights, are none of them.

    Raises:
        MissingPartError: timm is not installed.
        UnknownNameError: timm has no such network.
    """
    with torch.device("meta"):
        network = timm_builder(name)()
    options: dict[str, None] = {}  # ordered
    for kind in type(network).__mro__[: -len(nn.Module.__mro__)]:
        parameters = list(signature(kind.__init__).parameters.values())[1:]
        options |= dict.fromkeys(each.name for each in parameters if each.kind is not each.VAR_KEYWORD)
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break  # nothing is passed on
    return [option for option in options if option not in _NOT_OPTIONS]


def timm_size(name: str) -> int:
    """Return the pixels on each side of the pictures that one of timm's networks was made for."""
    return max(_configuration(name).input_size[1:])


def timm_repository(name: str) -> str:
    """Return the repository of the hub, ``owner/name``, that holds the weights of the name's tag, or the usual ones.

    Raises:
        SettingsError: nobody has published weights of this network there.
    """
    repository = _configuration(name).hf_hub_id
    if not repository:
        raise SettingsError(f"{name} has no published weights: leave --weights out, or choose another network")
    return repository


def _configuration(name: str) -> Any:
    """Return what timm knows about a network and its weights."""
    return require("timm.models", extra="timm").get_pretrained_cfg(_checked(name))


def _checked(name: str) -> str:
    """Return timm's own name of a network, with its tag."""
    timm, inner = require("timm", extra="timm"), name.removeprefix(PREFIX)
    if not timm.is_model(inner):
        raise UnknownNameError("model", name, list_timm())
    plain, _, tag = inner.partition(".")
    if tag and inner not in (tagged := timm.list_models(f"{plain}.*", pretrained=True)):
        raise UnknownNameError("weights", name, [PREFIX + other for other in tagged])
    return inner
