"""Checkpoint files of any origin: their tensors by name, read without running anything that a file says."""

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.errors import CheckpointError
from densekit.models.weights import read_tensors

_DEPTH = 8  # of mappings in mappings; a hostile file can hold itself
_HARMLESS: list[Any] = [  # what training scripts save beside weights, and what makes nothing but values
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    np.float64(0).__reduce__()[0],
    np.zeros(0).__reduce__()[0],
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as NumPy called the two before its version 2
    (np.zeros(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
]
_ADVICE = "save the weights alone, with safetensors or torch.save(model.state_dict(), path)"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file of safetensors or ``torch.save``, on the CPU.

    What a training script wraps around a state dict becomes a part of the names: ``{"state_dict": {"fc.bias": ...}}``
    gives ``"state_dict.fc.bias"``. What is no tensor (epochs, settings) is no weight and left out.

    Raises:
        CheckpointError: the file is missing, damaged or without tensors, or is a pickle that needs more than torch's
            ``weights_only`` reader takes, which could run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if start[8:] == b"{":  # safetensors: eight bytes of length, then JSON
        tensors = read_tensors(path)
    elif start.startswith((b"PK", b"\x80")):  # torch.save: a zip archive, before torch 1.6 a pickle
        tensors = tensors_in(_read_torch(path))
    else:
        raise CheckpointError(f"{path} is neither a safetensors nor a torch.save file")
    if not tensors:
        raise CheckpointError(f"{path} contains no named tensors: {_ADVICE}")
    return tensors


def tensors_in(content: Any) -> dict[str, Tensor]:
    """Return all tensors with values in mappings and lists of them, by names that lead to them.

    >>> tensors_in({"epoch": 3, "model": {"fc.bias": torch.zeros(1)}})
    {'model.fc.bias': tensor([0.])}
    """
    return dict(_flatten(content, "", _DEPTH))


def _flatten(content: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            if not value.is_meta:  # without values
                yield f"{prefix}{name}", value.to_dense() if value.layout is not torch.strided else value
        elif depth:
            yield from _flatten(value, f"{prefix}{name}.", depth - 1)


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        # torch warns about what it is about to refuse
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise CheckpointError(f"{path} {_reason(str(error) or type(error).__name__)}") from None


def _check_archive(path: Path) -> None:
    """Raise CheckpointError where a zip file's contents are not those that were written: torch does not look."""
    wrong = []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                if "/code/" in member.filename:  # TorchScript's, which torch refuses
                    continue
                raise CheckpointError(
                    f"{path} is not as torch.save writes it: {member.filename} in it is compressed, and could "
                    "unpack to any size"
                )
            try:
                archive.read(member)
            except zipfile.BadZipFile:
                wrong.append(member.filename)
    if any(name.endswith("/archive_format") for name in names):
        raise CheckpointError(f"{path} is a program of torch.export, no weights: {_ADVICE}")
    if 0 < len(wrong) < len(names):  # all: torch was told to write no checksums
        raise CheckpointError(f"{path} is damaged: {wrong[0]} in it does not have its checksum")


def _reason(message: str) -> str:
    """Say in one line why torch did not read a file."""
    if needs := re.search(r"GLOBAL (\S+)", message):
        return f"is refused, because reading it would call {needs[1]}, which no weights need: {_ADVICE}"
    if "TorchScript" in message:
        return f"is a TorchScript program, no weights: {_ADVICE}"
    if "weights_only" in message:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return f"is refused, because it needs more than torch's safe reader takes ({lines[-2]}): {_ADVICE}"
    return f"is damaged, or not a torch.save file ({message.splitlines()[0]})"
