"""An exported network as a network like any other: one table from target to its file and the function that opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densekit.errors import CheckpointError, SettingsError, UnknownNameError


@dataclass(frozen=True)
class Runtime:
    """What opens the exports to one target.

    Args:
        file: the only name that the file may have; so what a name promises is what is opened.
        opener: ``"module:function"``; the function is ``(path) -> ExportedNetwork``.
        runs_code: whether opening such a file can run code that somebody put into it.
        beside: further files of the network.
    """

    file: str
    opener: str
    runs_code: bool = False
    beside: tuple[str, ...] = ()


RUNTIMES = {
    "onnx": Runtime("model.onnx", "densekit.runtimes.run_onnx:open_onnx"),
    "openvino": Runtime("model.xml", "densekit.runtimes.run_openvino:open_openvino", beside=("model.bin",)),
    "torch": Runtime("model.pt2", "densekit.runtimes.run_torch:open_torch", runs_code=True),
    "keras": Runtime("model.keras", "densekit.runtimes.frameworks:open_keras", runs_code=True),
    "mxnet": Runtime("model-symbol.json", "densekit.runtimes.frameworks:open_mxnet", beside=("model-0000.params",)),
    "timm": Runtime("model.safetensors", "densekit.runtimes.run_timm:open_timm", beside=("config.json",)),
}
"""Target of an export -> what opens it."""


class ExportedNetwork(nn.Module):
    """A network that a runtime computes from a file: pictures -> logits (N, K), always in evaluation mode.

    Args:
        compute: takes what the file takes, on the CPU, and returns logits float32 (N, K).
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]):
        super().__init__()
        self.compute = compute
        super().train(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        return self.compute(pictures)

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Stay in evaluation mode: there is nothing left to train."""
        return self

    def to(self, *args: Any, **named: Any) -> "ExportedNetwork":
        """Stay on the CPU, and in the file's own precision.

        Args:
            *args: what `nn.Module.to` takes.
            **named: likewise.

        Raises:
            SettingsError: another device was asked for.
        """
        parse = torch._C._nn._parse_to  # pyright: ignore[reportAttributeAccessIssue] (what nn.Module.to calls)
        device: torch.device | None = parse(*args, **named)[0]
        if device is not None and device.type != "cpu":
            raise SettingsError(f"device {device} was asked for, but densekit runs exported networks on the CPU")
        return self


def open_exported(folder: Path, record: dict[str, Any]) -> ExportedNetwork:
    """Open the network of an exported folder.

    Args:
        folder: where its files are.
        record: the entry "export" of its model.json: ``target``, ``file`` and more.

    Raises:
        CheckpointError: the file is missing or damaged, or the record makes no sense.
        MissingPartError: the runtime is not installed.
    """
    runtime = find_runtime(record)
    if record.get("file") != runtime.file:
        raise CheckpointError(
            f"{folder / 'model.json'}: the export's file is {record.get('file')!r}, should be {runtime.file!r}"
        )
    path = folder / runtime.file
    if not path.exists():
        raise CheckpointError(f"cannot read {path}: No such file or directory")
    module, _, function = runtime.opener.partition(":")
    return getattr(import_module(module), function)(path)


def find_runtime(record: dict[str, Any]) -> Runtime:
    """Return what opens an export.

    Args:
        record: the entry "export" of its model.json.

    Raises:
        UnknownNameError: it names no target.
    """
    target = record.get("target")
    if target not in RUNTIMES:
        raise UnknownNameError("export target", str(target), list(RUNTIMES))
    return RUNTIMES[target]
