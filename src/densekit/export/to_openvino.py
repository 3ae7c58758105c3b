"""OpenVINO: model.xml and model.bin, in float32 or quantised to 8 bits."""

import io
import logging
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from densekit.classifier import Classifier
from densekit.export.program import make_program
from densekit.export.targets import Options
from densekit.optional import require
from densekit.runtimes.run_openvino import require_openvino


def write_openvino(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model.xml and model.bin.

    Raises:
        MissingPartError: openvino, or for int8 nncf, is not installed.
    """
    openvino = require_openvino()
    channels, size = classifier.preprocessing.channels, classifier.preprocessing.size
    shape = [-1, -1, -1, channels] if options.bake_preprocessing else [-1, channels, *size]
    model = openvino.convert_model(make_program(classifier, options), input=[shape])
    model.inputs[0].set_names({"pictures"})
    model.outputs[0].set_names({"logits"})
    if options.int8:
        model = _quantised(model, options)
    path = folder / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def _quantised(model: Any, options: Options) -> Any:
    """Quantise weights and activations after training, by the ranges seen on the calibration pictures."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf's import makes it warn of no GPU
    nncf = require("nncf", extra="export")
    pictures = [sample.numpy() for sample in options.calibration]
    # resizing is made of matrix products, which 8 bits would coarsen; so the last layer stays in float32 too
    exact = nncf.IgnoredScope(types=["MatMul"]) if options.bake_preprocessing else None
    with redirect_stdout(io.StringIO()):  # where nncf draws progress bars, and only results belong
        return nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures), ignored_scope=exact)
