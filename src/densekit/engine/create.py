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
    """Build a network by name, with random or trained weights, optionally with fused dense blocks.

    Args:
        name: a name from `list_models`, or ``timm:NAME`` for one of timm's networks.
        num_classes: number of logits; 0 leaves out the last layer, so that the network gives what it would read.
        in_channels: channels of the input pictures.
        weights: trained weights: "imagenet", a timm name such as "densenet121.ra_in1k", "hf-hub:owner/name", a run
            folder or a checkpoint file; one line on standard error says which of them were used.
        fused: whether the dense blocks run fused, see `fuse`: the same numbers and the same state-dict keys.
        options: further arguments of the network's class, e.g. ``growth_rate=24``.

    Raises:
        SettingsError: an option that the network does not have, a value that cannot work, or ``fused`` for a network
            without dense blocks that can be.
        UnknownNameError: no network of that name.
        MissingPartError: it is one of timm's, which is not installed.
        CheckpointError: the weights cannot be read or downloaded, or are of another network.

    >>> type(create_model("densenet_bc100_k12_cifar", fused=True).features.denseblock1).__name__
    'FusedDenseBlock'
    """
    model = catalogue.create_model(name, num_classes=num_classes, in_channels=in_channels, **options)
    if weights is not None:
        load_weights(model, weights)
    return fuse(model) if fused else model
