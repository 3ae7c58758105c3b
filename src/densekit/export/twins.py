"""Keras and MXNet: the network is built again in the framework, from the same options, and given the same weights."""

import tempfile
from pathlib import Path

import numpy as np

from densekit.classifier import Classifier
from densekit.errors import ExportError
from densekit.export.densenet_options import densenet_options
from densekit.export.targets import Options
from densekit.files import write_json
from densekit.runtimes.frameworks import KERAS, MXNET, Framework, last_line


def write_keras(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model.keras: pictures float32 (N, H, W, C) of any size -> logits (N, K).

    Raises:
        SettingsError: the network has no twin in Keras.
        MissingPartError: there is no Keras.
    """
    return _write(classifier, KERAS, "to_keras.py", folder / "model.keras")


def write_mxnet(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model-symbol.json and model-0000.params: pictures float32 (N, C, H, W) of any size -> logits (N, K).

    Raises:
        SettingsError: the network has no twin in MXNet.
        MissingPartError: there is no MXNet.
    """
    return _write(classifier, MXNET, "to_mxnet.py", folder / "model-symbol.json")


def describe(classifier: Classifier, target: str, folder: Path) -> None:
    """Write what a twin is made of: options.json for its builder, weights.npz with PyTorch's keys.

    Raises:
        SettingsError: the network has no twin.
    """
    _, options = densenet_options(classifier, target)
    for option in ("spatial_dims", "memory_efficient", "features_only"):
        del options[option]  # the same for every network that gets here, or of no account for the numbers
    weights = {key: tensor.float().numpy(force=True) for key, tensor in classifier.network.state_dict().items()}
    write_json(folder / "options.json", options)
    np.savez(folder / "weights.npz", **weights)


def _write(classifier: Classifier, framework: Framework, twin: str, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        describe(classifier, framework.name, Path(scratch))
        process, errors = framework.start(Path(__file__).with_name(twin), scratch, path)
        with process, errors:
            process.communicate()
            if process.returncode:
                raise ExportError(f"{framework.name} could not write {path.name}: {last_line(errors)}")
    return path
