"""What is left open in the settings follows from the data: network, size, channels; then the normalisation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.normalisation import normalisation_for
from densekit.data.picture_set import DataSet
from densekit.data.preprocessing import Preprocessing
from densekit.errors import SettingsError
from densekit.models.catalogue import create_model, model_options, picture_size
from densekit.models.pretrained import Weights, is_published
from densekit.models.timm_networks import is_timm
from densekit.training.settings import TrainSettings
from densekit.version import __version__

_SMALL = 64  # pixels; larger pictures get a network that shrinks them first


def resolve(
    chosen: TrainSettings, dataset: DataSet, weights: Weights | None = None
) -> tuple[TrainSettings, Preprocessing]:
    """Fill in what the settings leave to the weights and the data, all but the normalisation.

    Returns:
        The settings, and the preprocessing they amount to, which does not normalise yet.
    """
    chosen = resolve_network(chosen, dataset, weights)
    chosen = chosen.with_optimizer_defaults()
    assert isinstance(chosen.size, tuple)
    assert chosen.channels is not None
    return chosen, Preprocessing(channels=chosen.channels, size=chosen.size, resize=chosen.resize)


def normalise(
    resolved: TrainSettings,
    preprocessing: Preprocessing,
    dataset: DataSet,
    weights: Weights | None = None,
    *,
    screen: Screen | None = None,
) -> tuple[TrainSettings, Preprocessing]:
    """Fill in mean and standard deviation as given, as of the weights, or as of the training pictures.

    Those may all be read for it: load them into memory first.

    Returns:
        Settings with nothing left open, and the preprocessing they amount to.
    """
    if resolved.mean is not None and resolved.std is not None:
        found = {"mean": resolved.mean, "std": resolved.std}
    elif weights is not None and weights.mean is not None and weights.std is not None:
        known = {"mean": weights.mean, "std": weights.std}
        found = {name: _for_channels(values, preprocessing.channels) for name, values in known.items()}
    else:
        found = normalisation_for(dataset, preprocessing, seed=resolved.seed, screen=screen)._asdict()
    return resolved.model_copy(update=found), preprocessing.model_copy(update=found)


def _usual_optimizer(model: str, options: Mapping[str, Any]) -> str:
    """Return the optimizer whose usual learning rate suits a network: SGD's 0.1 is for those with batch norm.

    `simple_cnn` has it, but reads every position with weights of its own; its tutorial takes Adam.
    """
    if model == "simple_cnn":
        return "adam"
    with torch.device("meta"):
        network = create_model(model, **options)
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    return "sgd" if normed else "adamw"


def resolve_network(chosen: TrainSettings, dataset: DataSet, weights: Weights | None = None) -> TrainSettings:
    """Fill in the network, its options and optimizer, and the size and channels of the pictures it sees.

    Raises:
        SettingsError: a setting that these pictures' kind of labels does not allow.
    """
    if chosen.class_balance == "sampler" and dataset.multilabel:
        raise SettingsError("class_balance=sampler is for pictures of one class each: use class_balance=loss")
    if chosen.thresholds == "f1" and not dataset.multilabel:
        raise SettingsError("thresholds=f1 is for pictures of several labels: these have one class each")
    if chosen.thresholds == "f1" and dataset.val is None:
        raise SettingsError("thresholds=f1 needs pictures to validate on, and there are none")
    size = _picture_size(chosen, dataset)
    model, options = _network(chosen, size, weights)
    for option in {"image_size", "img_size"}.intersection(model_options(model)):  # densekit's name and timm's
        options.setdefault(option, list(size))
    channels = chosen.channels or dataset.channels
    for name, values in (("mean", chosen.mean), ("std", chosen.std)):
        if values is not None and len(values) not in {1, channels}:
            raise SettingsError(f"{name}={values}: give one number, or one for each of {channels} channels")
    optimizer = chosen.optimizer or _usual_optimizer(model, options)
    network = {"model": model, "model_options": options, "optimizer": optimizer}
    return chosen.model_copy(update={**network, "size": size, "channels": channels})


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Grey pictures take the average over the colours, as timm does."""
    return values if len(values) in {1, channels} else (sum(values) / len(values),)


def _network(chosen: TrainSettings, size: tuple[int, int], weights: Weights | None) -> tuple[str, dict[str, Any]]:
    """Return name and options of the network: the weights' own, unless another is chosen."""
    if weights is not None and weights.model is not None and chosen.model in {None, weights.model}:
        return weights.model, {**weights.options, **chosen.model_options}
    model = chosen.model or ("densenet12_wide_cifar" if max(size) <= _SMALL else "densenet121")
    return model, dict(chosen.model_options)


def _picture_size(chosen: TrainSettings, dataset: DataSet) -> tuple[int, int]:
    if isinstance(chosen.size, int):
        return chosen.size, chosen.size
    if chosen.size is not None:
        return chosen.size
    height, width = dataset.size
    if max(height, width) <= _SMALL:
        return height, width
    side = min(224, max(32, min(height, width) // 32 * 32))
    return side, side


def _name(weights: str | None) -> str | None:
    """Return the name of weights without the folders of this computer, because the classifier may travel."""
    return weights if weights is None or is_published(weights) else Path(weights).name


def new_classifier(settings: TrainSettings, preprocessing: Preprocessing, dataset: DataSet) -> Classifier:
    """Build the network with its first, random weights.

    Raises:
        SettingsError: the network does not fit the settings or the size of the pictures, or is no classifier of them.
    """
    assert settings.model is not None
    if settings.model_options.get("features_only") or settings.model_options.get("spatial_dims", 2) != 2:
        raise SettingsError(
            "model_options: features_only and spatial_dims make no classifier of pictures: leave them out, "
            "or build that network with densekit.create_model"
        )
    torch.manual_seed(settings.seed)
    network = create_model(
        settings.model,
        num_classes=len(dataset.classes),
        in_channels=preprocessing.channels,
        **settings.model_options,
    )
    _check_size(settings.model, network, preprocessing)
    trained = {
        "model": settings.model,
        "weights": _name(settings.weights),
        "densekit": __version__,
        "torch": torch.__version__,
    }
    return Classifier(network, dataset.classes, preprocessing, {"trained": trained}, multilabel=dataset.multilabel)


def _check_size(model: str, network: nn.Module, preprocessing: Preprocessing) -> None:
    """Raise SettingsError where the network cannot take pictures of this size."""
    (height, width), smallest = preprocessing.size, getattr(network, "minimum_size", 1)
    if min(height, width) < smallest:
        raise SettingsError(
            f"{model} needs pictures of at least {smallest}x{smallest}, these are {height}x{width}: "
            f"choose --size {max(32, smallest)}, or a network for small pictures"
        )
    if is_timm(model):  # which tells nobody what size its networks can take
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, preprocessing.channels, height, width))
        except Exception as error:  # an assertion, a shape that does not fit, ...
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise SettingsError(
                f"{model} cannot take pictures of {height}x{width} ({reason}): choose --size {picture_size(model)}"
            ) from None
