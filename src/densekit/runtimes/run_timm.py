"""Folders for timm, computed by timm's own network."""

from pathlib import Path

from densekit.optional import require
from densekit.runtimes.exported import ExportedNetwork


def open_timm(path: Path) -> ExportedNetwork:
    """Open the folder of a model.safetensors with a config.json beside it.

    Raises:
        MissingPartError: timm is not installed.
    """
    timm = require("timm", extra="export")
    return ExportedNetwork(timm.create_model(f"local-dir:{path.parent}", pretrained=True).eval())
