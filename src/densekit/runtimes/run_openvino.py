"""OpenVINO's intermediate representation, computed on the CPU."""

import sys
from pathlib import Path
from threading import Lock
from types import ModuleType

import torch
from torch import Tensor

from densekit.errors import CheckpointError
from densekit.optional import require
from densekit.runtimes.exported import ExportedNetwork


def require_openvino() -> ModuleType:
    """Import OpenVINO, without the part of it that reports every import and conversion to its maker.

    Raises:
        MissingPartError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] (marks it as missing)
    return require("openvino", extra="export")


def open_openvino(path: Path) -> ExportedNetwork:
    """Open an .xml file, with the .bin file beside it.

    Float networks are computed in float32: left to itself, OpenVINO takes bfloat16 where the processor has it.

    Raises:
        CheckpointError: it is no such file, or damaged.
        MissingPartError: OpenVINO is not installed.
    """
    openvino = require_openvino()
    try:
        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise CheckpointError(f"{path} cannot be opened by OpenVINO: {error}") from None

    lock = Lock()

    def compute(pictures: Tensor) -> Tensor:
        with lock:  # the model has one place for results: a second thread is refused, and the next call writes over it
            return torch.from_numpy(model(pictures.numpy(force=True))[0].copy())

    return ExportedNetwork(compute)
