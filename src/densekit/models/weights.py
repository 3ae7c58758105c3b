"""A network on disk: ``model.json`` says what it is, ``model.safetensors`` holds its weights; no pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from densekit.errors import CheckpointError, DensekitError
from densekit.files import write_json, write_tensors
from densekit.models.catalogue import create_model

FORMAT = 1
"""Version of ``model.json``, raised when a change would mislead older readers."""


def save_model(folder: Path, model: nn.Module, **record: Any) -> None:
    """Write ``model.json`` and ``model.safetensors``, each whole or not at all.

    Args:
        folder: made if it is not there.
        model: a network from `create_model`, compiled or not.
        record: what else ``model.json`` shall hold (classes, preprocessing, ...), as plain JSON values.

    Raises:
        CheckpointError: the network was not made by `create_model`, so that it could not be built again.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper would put its prefix on every key
    # safetensors takes no channels-last or otherwise strided tensors
    tensors = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    entries = _entries(model, record)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "model.json", entries)


def save_record(folder: Path, model: nn.Module, **record: Any) -> None:
    """Write ``model.json`` alone; arguments and errors are those of `save_model`."""
    write_json(folder / "model.json", _entries(model, record))


def _entries(model: nn.Module, record: dict[str, Any]) -> dict[str, Any]:
    architecture = getattr(getattr(model, "_orig_mod", model), "architecture", None)
    if architecture is None:
        kind = type(model).__name__
        raise CheckpointError(
            f"cannot save this {kind}, which could not be built again: make it with densekit.create_model, and give it "
            "its weights with load_state_dict or densekit.load_weights"
        )
    if taken := {"format", "architecture"} & record.keys():
        raise CheckpointError(f"model.json has its own entry {taken.pop()!r}: choose another name for yours")
    return {"format": FORMAT, "architecture": architecture, **record}


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a saved network, with exactly the saved weights.

    Args:
        folder: a folder that `save_model` wrote.

    Returns:
        The network, on the CPU and in evaluation mode, and the further entries of ``model.json``.

    Raises:
        CheckpointError: a file is missing, damaged, of a newer densekit, or does not fit the other.
    """
    record = read_record(folder)
    path = folder / "model.safetensors"
    tensors = read_tensors(path)
    architecture = record.pop("architecture")
    try:
        model = create_model(architecture["name"], **architecture["options"])
    except (DensekitError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'model.json'} names a network that cannot be built: {error}") from None
    _check_fit(path, architecture["name"], tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)  # assign: keep the saved dtype
    return model.eval(), record


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load(path.read_bytes())  # not load_file: its tensors would stay tied to the file
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged, or not a safetensors file ({error})") from None


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``model.json`` holds, less its format.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer densekit.
    """
    path = folder / "model.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; name a run folder or an export") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or not JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("architecture"), dict):
        raise CheckpointError(f"{path} was not written by densekit: it has no architecture")
    version = record.pop("format", None)
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version!r}, this densekit reads {FORMAT}: update densekit")
    return record


def _check_fit(path: Path, name: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise with the first tensor that is missing, left over or of another shape."""
    for key in [*wanted, *saved]:
        shapes = [tuple(tensors[key].shape) if key in tensors else "nothing" for tensors in (saved, wanted)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{path} does not fit {name}: {key} is {shapes[0]}, should be {shapes[1]}")
