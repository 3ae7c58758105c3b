"""Folders for timm, computed by timm's own network."""

import json
from pathlib import Path

from densekit.errors import CheckpointError, MissingPartError
from densekit.models.catalogue import create_model
from densekit.models.timm_networks import PREFIX
from densekit.models.weights import read_tensors
from densekit.runtimes.exported import ExportedNetwork


def open_timm(path: Path) -> ExportedNetwork:
    """Open a model.safetensors with a config.json beside it.

    timm itself would choose among the folder's files, and read pickles with some of its versions.

    Raises:
        MissingPartError: timm is not installed.
        CheckpointError: a file is damaged, or not what timm reads.
    """
    tensors = read_tensors(path)
    try:
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        options = dict(config["model_args"])
        channels = options.pop("in_chans")
        name = PREFIX + config["architecture"]
        network = create_model(name, num_classes=config["num_classes"], in_channels=channels, **options)
        network.load_state_dict(tensors)
    except MissingPartError:
        raise
    except Exception as error:  # anything, from a cut JSON file to an option that timm does not know
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path.parent} cannot be opened by timm: {reason}") from None
    return ExportedNetwork(network.eval())
