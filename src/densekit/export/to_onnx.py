"""ONNX: one file, with class names and preprocessing in its metadata."""

import json
from pathlib import Path

import torch

from densekit.classifier import Classifier
from densekit.export.program import make_program
from densekit.export.targets import Options
from densekit.files import write_atomically
from densekit.optional import require


def write_onnx(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model.onnx: input "pictures", output "logits", batches of any length.

    Raises:
        MissingPartError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx", extra="export")
    require("onnxscript", extra="export")
    program = torch.onnx.export(
        make_program(classifier, options, in_groups=True),  # ONNX Runtime sums while it convolves
        (),
        input_names=["pictures"],
        output_names=["logits"],
        opset_version=20,
        verbose=False,
    )
    assert program is not None  # only None where a file was named
    model = program.model_proto
    for value in (*model.graph.input, *model.graph.output):
        for name, dimension in zip(("batch", "height", "width"), value.type.tensor_type.shape.dim, strict=False):
            if dimension.dim_param:  # an open size, called s77 or the like
                dimension.dim_param = name
    del model.graph.value_info[:]  # has the old names, and nothing that a runtime could not infer
    metadata = {
        "classes": json.dumps(classifier.classes, ensure_ascii=False),
        "preprocessing": classifier.preprocessing.model_dump_json(),
        "temperature": str(classifier.temperature),
    }
    if classifier.thresholds is not None:
        metadata["thresholds"] = json.dumps(classifier.thresholds)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
    return path
