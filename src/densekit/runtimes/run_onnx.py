"""ONNX files, computed by ONNX Runtime on the CPU."""

from pathlib import Path

import torch
from torch import Tensor

from densekit.errors import CheckpointError
from densekit.optional import require
from densekit.runtimes.exported import ExportedNetwork


def open_onnx(path: Path) -> ExportedNetwork:
    """Open an ONNX file.

    Raises:
        CheckpointError: it is no ONNX file that ONNX Runtime can compute.
        MissingPartError: ONNX Runtime is not installed.
    """
    onnxruntime = require("onnxruntime", extra="export")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this one
        raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {error}") from None
    name = session.get_inputs()[0].name

    def compute(pictures: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: pictures.numpy(force=True)})[0])

    return ExportedNetwork(compute)
