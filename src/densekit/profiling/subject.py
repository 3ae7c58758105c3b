"""What is profiled: a network by name, from densekit's catalogue, a run folder, timm or torchvision, or a module."""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.engine.swap import fuse, unfuse
from densekit.errors import SettingsError, UnknownNameError
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model, list_models, picture_size
from densekit.models.hub import HUB
from densekit.models.timm_networks import is_timm

Size = tuple[int, int]
"""Height and width of the pictures, in pixels."""


@dataclass(frozen=True)
class Subject:
    """A network to profile.

    Args:
        name: as a person gave it.
        build: makes the network.
        size: of the pictures it is usually used with.
        channels: of those pictures.
        fused: whether its dense blocks run fused.
        by_name: whether another process can build it by its name.
    """

    name: str
    build: Callable[[], nn.Module] = field(repr=False)
    size: Size = (224, 224)
    channels: int = 3
    fused: bool = False
    by_name: bool = True

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return f"{self.name} fused" if self.fused else self.name

    def make(self, device: torch.device) -> nn.Module:
        """Return the network in the memory layout that `densekit train` uses, with stock dense blocks."""
        network: Any = self.build()
        return network.to(device=device, memory_format=torch.channels_last)


def find_subject(name: str | os.PathLike[str] | nn.Module, *, fused: bool = False) -> Subject:
    """Look a network up, without building it.

    Args:
        name: a name of `densekit models`, a run folder, ``timm:NAME`` or ``torchvision:NAME``; or a network, of which
            copies are profiled.
        fused: whether its dense blocks shall run fused.

    Raises:
        UnknownNameError: no such network.
        CheckpointError: a folder that holds no classifier.
        MissingPartError: timm is not installed.
    """
    if isinstance(name, nn.Module):
        stock = unfuse(deepcopy(name))
        channels = next((part.in_channels for part in name.modules() if isinstance(part, nn.Conv2d)), 3)
        return Subject(type(name).__name__, lambda: deepcopy(stock), channels=channels, fused=fused, by_name=False)
    name = str(name)
    if name.startswith("torchvision:"):
        return Subject(name, _from_torchvision(name.removeprefix("torchvision:")), fused=fused)
    if is_timm(name) or name in list_models():
        size = picture_size(name)
        classes = 10 if size == 32 else 1000
        return Subject(name, lambda: create_model(name, num_classes=classes), (size, size), fused=fused)
    if not name.startswith(HUB) and not Path(name).expanduser().exists():
        raise UnknownNameError("model or run folder", name, list_models())
    classifier = load_classifier(name, device="cpu")
    size, channels = classifier.preprocessing.size, classifier.preprocessing.channels
    return Subject(name, lambda: deepcopy(classifier.network), size, channels, fused)


def can_fuse(subject: Subject) -> bool:
    """Return whether the network has dense blocks that the fused engine computes."""
    try:
        fuse(subject.build())
    except SettingsError:
        return False
    return True


def _from_torchvision(name: str) -> Callable[[], nn.Module]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # else they warn
    return lambda: models.get_model(name, **options)
