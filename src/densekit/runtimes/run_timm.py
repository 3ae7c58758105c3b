"""Folders for timm, computed by timm's own network."""

from pathlib import Path

from densekit.errors import CheckpointError
from densekit.optional import require
from densekit.runtimes.exported import ExportedNetwork


def open_timm(path: Path) -> ExportedNetwork:
    """Open the folder of a model.safetensors with a config.json beside it.

    Raises:
        MissingPartError: timm is not installed.
        CheckpointError: a file is damaged, or not what timm reads.
    """
    timm = require("timm", extra="timm")
    try:
        return ExportedNetwork(timm.create_model(f"local-dir:{path.parent}", pretrained=True).eval())
    except Exception as error:  # anything, from a cut JSON file to an option that timm does not know
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path.parent} cannot be opened by timm: {reason}") from None
