"""Programs of `torch.export`, computed by PyTorch.

A .pt2 file holds code, and opening one can run it: open only files that you trust.
"""

from pathlib import Path

import torch

from densekit.errors import CheckpointError
from densekit.runtimes.exported import ExportedNetwork


def open_torch(path: Path) -> ExportedNetwork:
    """Open a .pt2 file.

    Raises:
        CheckpointError: it is no such file, or this PyTorch cannot read it.
    """
    try:
        network = torch.export.load(path).module()
    except Exception as error:  # anything, from a damaged zip file to an operator that is gone
        raise CheckpointError(f"{path} cannot be opened by PyTorch {torch.__version__}: {error}") from None
    return ExportedNetwork(lambda pictures: network(pictures))  # not as a child: it refuses train() and eval()
