"""Networks by name, with trained weights and fused at once: what the package calls ``create_model``."""

from pathlib import Path
from typing import Any

from torch import nn

from densekit.engine.swap import fuse
from densekit.models import catalogue
from densekit.models.pretrained import load_weights


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    weights: str | Path | None = None,
    fused: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a network by name, with fresh random weights or trained ones, and with fused dense blocks if wanted.

    Args:
        name: a name from `list_models`.
        num_classes: see `densekit.models.catalogue.create_model`.
        in_channels: likewise.
        weights: trained weights, as `densekit.models.pretrained.find_weights` takes them; one line on standard error
            says what of them was taken.
        fused: whether the dense blocks run fused: the same numbers and the same state-dict keys.
        options: see `densekit.models.catalogue.create_model`.

    Raises:
        SettingsError: likewise; and ``fused`` for a network without dense blocks that can be.
        UnknownNameError: no network of that name.
        CheckpointError: the weights cannot be had, or are of another network.

    >>> type(create_model("densenet_bc100_k12_cifar", fused=True).features.denseblock1).__name__
    'FusedDenseBlock'
    """
    model = catalogue.create_model(name, num_classes=num_classes, in_channels=in_channels, **options)
    if weights is not None:
        load_weights(model, weights)
    return fuse(model) if fused else model
