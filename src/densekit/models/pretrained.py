"""Trained weights by name, file, folder or hub repository, with what is known about them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from densekit.console import Screen
from densekit.errors import CheckpointError, UnknownNameError
from densekit.models.catalogue import list_models, option_values
from densekit.models.checkpoints import read_checkpoint, tensors_in
from densekit.models.hub import HUB, WEIGHT_FILES, fetch_hub
from densekit.models.published import (
    fetch_torchvision,
    model_of,
    published_names,
    timm_names,
    torchvision_weights,
)
from densekit.models.timm_networks import PREFIX, is_timm, timm_repository
from densekit.models.transfer import Transfer, transfer
from densekit.models.weights import read_record

IMAGENET = "imagenet"
_DEFAULT_MODEL = "densenet121"  # of "imagenet" alone
_UNSEEN = ("activation", "pooling")  # options of which tensors do not show that they are others


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and what is known about the network they are of.

    Attributes:
        name: what a person calls them.
        tensors: by their names in the file.
        model: densekit's name of the network; None if unknown.
        options: what differs from the network's named configuration.
        mean: of the pictures the network was trained on, values in 0..1, one number a channel; None if unknown.
        std: likewise.
        classes: names of the logits; None if unknown.
        origin: what the publisher calls the network; None if unknown.
    """

    name: str
    tensors: Mapping[str, Tensor]
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    origin: str | None = None


def find_weights(source: str | Path, *, model: str | None = None, screen: Screen | None = None) -> Weights:
    """Read weights, downloading them if need be.

    Args:
        source: ``"imagenet"`` (torchvision's best for the network; timm's usual ones for one of timm's), a name such as
            ``"densenet121.ra_in1k"`` or ``"timm:convnext_tiny.in12k_ft_in1k"`` (timm's, from the Hugging Face hub),
            ``"hf-hub:owner/name"``, a checkpoint file, or a folder: a run, or one with ``model.safetensors``; that file
            in such a folder stands for the folder.
        model: the network they are for; ``"imagenet"`` depends on it [densenet121].
        screen: where progress goes.

    Raises:
        UnknownNameError: no published weights of that name, and no such file.
        CheckpointError: a file cannot be downloaded (the message says what to put where), read or trusted.
        SettingsError: nobody has published weights of this network of timm's.
        MissingPartError: they are of one of timm's networks, and timm is not installed.
    """
    name, screen = str(source), screen or Screen()
    if name == IMAGENET and model and is_timm(model):
        name = model
    if is_timm(name):
        repository = timm_repository(name)
        return _from_folder(fetch_hub(repository, screen), repository)
    if name == IMAGENET:
        return _imagenet(model or _DEFAULT_MODEL, screen)
    if name in timm_names(model_of(name) or ""):
        return _from_folder(fetch_hub(f"timm/{name}", screen), name)
    if name.startswith(HUB):
        return _from_folder(fetch_hub(name.removeprefix(HUB), screen), name)
    if not name:
        raise UnknownNameError("weights", name, [IMAGENET])
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(path, name)
    if path.name in WEIGHT_FILES and path.is_file():
        return _described(path, name)
    if not path.exists() and path.name == name and path.suffix not in {".pth", ".pt", ".safetensors", ".bin", ".ckpt"}:
        raise UnknownNameError("weights", name, [IMAGENET, *(n for m in list_models() for n in timm_names(m))])
    return Weights(name, read_checkpoint(path))


def is_published(source: str) -> bool:
    """Return whether `find_weights` takes ``source`` for a name of published weights, not for a file or folder."""
    return source == IMAGENET or source.startswith((HUB, PREFIX)) or source in timm_names(model_of(source) or "")


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Any] | nn.Module | Weights,
    *,
    classes: Sequence[str] | None = None,
    screen: Screen | None = None,
) -> Transfer:
    """Copy trained weights into a network, as far as they fit, and tell what became of every tensor.

    Args:
        model: changed in place; one of `create_model`, or any other with the names of torchvision's.
        weights: as `find_weights` takes them, what it returned, another network, or a state dict, also where it is in
            what a training script saves.
        classes: names of the network's logits; a head that is known to be of others is left out.
        screen: where progress and the one line about what was taken go.

    Returns:
        What was loaded, adapted, left new and left over; `densekit.models.transfer.transfer` says what is adapted.

    Raises:
        UnknownNameError: no published weights of that name, and no such file.
        CheckpointError: the weights cannot be read, or are of another network.
    """
    screen, architecture = screen or Screen(), getattr(model, "architecture", {})
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if isinstance(weights, Mapping):
        weights = Weights("of a state dict", tensors_in(weights))
    if not isinstance(weights, Weights):
        weights = find_weights(weights, model=architecture.get("name"), screen=screen)
    same = classes is None or weights.classes is None or tuple(classes) == weights.classes
    try:
        result = transfer(model, weights.tensors, keep_head=same)
    except CheckpointError as error:
        raise CheckpointError(f"{weights.name}: {error}") from None
    if architecture and (other := _difference(weights, architecture)):
        screen.warn(f"weights {weights.name} are of {other}, so they mean something else here than there")
    (screen.say if result.complete else screen.warn)(f"weights {weights.name}: {result}")
    return result


def _imagenet(model: str, screen: Screen) -> Weights:
    entry = torchvision_weights(model)
    if entry is None:
        known = ", ".join(name for name in list_models() if IMAGENET in published_names(name))
        raise CheckpointError(f"{model} has no published ImageNet weights; choose one of {known}")
    tensors, preset = read_checkpoint(fetch_torchvision(model, screen)), entry.transforms()
    classes = tuple(entry.meta["categories"])
    return Weights(IMAGENET, tensors, model, {}, tuple(preset.mean), tuple(preset.std), classes)


def _from_folder(folder: Path, name: str) -> Weights:
    """Read a folder of densekit's (model.json) or of timm's (config.json) kind, or with weights alone."""
    file = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} holds no weights: there is no {WEIGHT_FILES[0]} in it")
    return _described(file, name)


def _described(file: Path, name: str) -> Weights:
    """Read a file of weights, and what the files beside it say about them."""
    if file.with_name("model.json").exists():
        return Weights(name, read_checkpoint(file), **_of_densekit(file.parent))
    if file.with_name("config.json").exists():
        return Weights(name, read_checkpoint(file), **_of_timm(file.with_name("config.json")))
    return Weights(name, read_checkpoint(file))


def _difference(weights: Weights, architecture: Mapping[str, Any]) -> str | None:
    """Say which network weights are of, where it is known and computes something else than this one."""
    name = architecture["name"]
    if weights.model != name:
        same = weights.model and _without_library(weights.model) == _without_library(name)
        return None if same else weights.model or weights.origin
    theirs, ours = (option_values(name, options) for options in (weights.options, architecture["options"]))
    differing = [f"{key} {theirs[key]!r}" for key in _UNSEEN if theirs.get(key) != ours.get(key)]
    return f"a {name} with {', '.join(differing)}" if differing else None


def _without_library(name: str) -> str:
    """Return one name for a network that densekit and timm have both."""
    return model_of(name.removeprefix(PREFIX)) or name


def _of_densekit(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    # number of classes, channels and pixels are those of the pictures to come
    left_open = {"num_classes", "in_channels", "image_size", "img_size"}
    try:
        architecture = record["architecture"]
        options = {key: value for key, value in architecture["options"].items() if key not in left_open}
        classes = tuple(record["classes"]) if "classes" in record else None
        normalisation = _normalisation(record.get("preprocessing", {}))
        return {"model": architecture["name"], "options": options, "classes": classes, **normalisation}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / 'model.json'} is damaged ({error})") from None


def _of_timm(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        known = _normalisation(config.get("pretrained_cfg", config))
        architecture, changed = str(config.get("architecture", "")), dict(config.get("model_args") or {})
        model, options = model_of(architecture), {}
        if model is None and architecture:
            model, options = PREFIX + architecture, changed
        elif changed:  # densekit's options have other names
            model = None
        labels = config.get("label_names", config.get("pretrained_cfg", {}).get("label_names"))
        return {
            "model": model,
            "options": options,
            "origin": f"timm's {architecture}" + (f" with {changed}" if changed else ""),
            "classes": tuple(map(str, labels)) if labels else None,
            **known,
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, or not a timm configuration ({error})") from None


def _normalisation(described: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {key: tuple(map(float, described[key])) for key in ("mean", "std") if key in described}
