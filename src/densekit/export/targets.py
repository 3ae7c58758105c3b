"""What a classifier can be exported to: one table, target -> the function that writes it and what is asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from torch import Tensor

from densekit.classifier import Classifier
from densekit.errors import SettingsError, UnknownNameError


@dataclass(frozen=True)
class Options:
    """How to export.

    Args:
        int8: compute in whole numbers of 8 bits.
        bake_preprocessing: the file takes pictures as bytes of any size, and resizes and normalises by itself.
        calibration: for int8, real pictures to measure value ranges on, each as the file will take it.
    """

    int8: bool = False
    bake_preprocessing: bool = False
    calibration: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from the trained network.

    Args:
        probability: largest difference of a class's probability, on any picture.
        agreement: smallest share of pictures with the same likeliest class.
    """

    probability: float
    agreement: float


@dataclass(frozen=True)
class Target:
    """One target.

    Args:
        writer: ``"module:function"``; the function takes (Classifier, folder, Options), writes into the folder and
            returns the path of the file that `densekit.runtimes` opens.
        usage: Python code that computes logits with the file, for the model card.
        options: the names in `Options` that the target can do.
        tolerance: of the float32 export; `tolerance_for` widens it for options.
    """

    writer: str
    usage: str
    options: frozenset[str] = frozenset()
    tolerance: Tolerance = Tolerance(probability=1e-4, agreement=0.99)

    def write(self, classifier: Classifier, folder: Path, options: Options) -> Path:
        """Write the network's file into a folder and return its path."""
        module, _, function = self.writer.partition(":")
        return getattr(import_module(module), function)(classifier, folder, options)

    def tolerance_for(self, options: Options) -> Tolerance:
        """Return what is asked of an export with these options."""
        if options.int8:
            return Tolerance(probability=1.0, agreement=0.90)
        if options.bake_preprocessing:  # rounds a few pixels to the neighbouring value
            return Tolerance(probability=0.02, agreement=0.99)
        return self.tolerance


_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {"pictures": pictures})  # NumPy
"""

_OPENVINO = """\
import openvino

exact = {"INFERENCE_PRECISION_HINT": "f32"}  # without it, bfloat16 where the processor has it
model = openvino.compile_model("model.xml", "CPU", exact)
logits = model(pictures)["logits"]  # NumPy
"""

_TORCH = """\
import torch

network = torch.export.load("model.pt2").module()  # can run code: load only what you trust
logits = network(pictures)  # a tensor
"""

_KERAS = """\
import keras

model = keras.saving.load_model("model.keras", compile=False)
logits = model(pictures.transpose(0, 2, 3, 1))  # NumPy, channels last
"""

_MXNET = """\
from mxnet import gluon, nd

network = gluon.SymbolBlock.imports("model-symbol.json", ["data"], "model-0000.params")
logits = network(nd.array(pictures))
"""

_TIMM = """\
import timm

network = timm.create_model("local-dir:.", pretrained=True).eval()
logits = network(pictures)  # a tensor
"""

TARGETS = {
    "onnx": Target("densekit.export.to_onnx:write_onnx", _ONNX, frozenset({"bake_preprocessing"})),
    "openvino": Target(
        "densekit.export.to_openvino:write_openvino", _OPENVINO, frozenset({"int8", "bake_preprocessing"})
    ),
    "torch": Target("densekit.export.to_torch:write_torch", _TORCH, frozenset({"bake_preprocessing"})),
    "keras": Target("densekit.export.twins:write_keras", _KERAS),
    "mxnet": Target("densekit.export.twins:write_mxnet", _MXNET),
    "timm": Target("densekit.export.to_timm:write_timm", _TIMM),
}


def find_target(name: str, *, int8: bool, bake_preprocessing: bool) -> Target:
    """Return a target that can do what is asked.

    Raises:
        UnknownNameError: no target of that name.
        SettingsError: an option that it does not have.
    """
    if name not in TARGETS:
        raise UnknownNameError("export target", name, list(TARGETS))
    for option, wanted in (("int8", int8), ("bake_preprocessing", bake_preprocessing)):
        if wanted and option not in TARGETS[name].options:
            able = ", ".join(other for other, target in TARGETS.items() if option in target.options)
            raise SettingsError(f"{name} has no --{option.replace('_', '-')}; targets that have it: {able}")
    return TARGETS[name]
