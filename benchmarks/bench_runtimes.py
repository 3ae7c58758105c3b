"""Speed of one DenseNet-121 in every runtime: densekit's export beside torchvision's own of the same weights.

    python benchmarks/bench_runtimes.py [--runs 15] [--quick] [--no-compiled] [--write]

The rows take turns, so that whatever else the machine does hits them alike. Weights are random: speed does not depend
on them. torchvision's rows are what `torch.onnx.export`, `openvino.convert_model` and NNCF make of it as it is.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from common import interleave, setting, summarise, write_results
from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.engine.swap import fuse
from densekit.export.targets import Options, find_target
from densekit.models.catalogue import create_model
from densekit.runtimes.run_openvino import require_openvino

Row = Callable[[np.ndarray], object]

STARTS = {
    "torch": "import torch; run = torch.export.load(path).module(); run(torch.from_numpy(pictures))",
    "onnx": "import onnxruntime; run = onnxruntime.InferenceSession(path); run.run(None, {'pictures': pictures})",
    "openvino": "import sys; sys.modules['openvino_telemetry'] = None\n"
    "import openvino; run = openvino.compile_model(path, 'CPU'); run(pictures)",
}
"""What a process does from its start to the first answer of densekit's export."""


def export_ours(network: nn.Module, size: int, folder: Path) -> dict[str, Path]:
    """Export to every target; int8 is calibrated on noise, which changes its answers but not its speed."""
    names = tuple(f"class {number}" for number in range(1000))
    classifier = Classifier(network, names, Preprocessing(size=(size, size)))
    noise = [torch.randn(1, 3, size, size) for _ in range(4)]
    wanted = {
        "torch": Options(),
        "onnx": Options(),
        "openvino": Options(),
        "openvino-int8": Options(True, False, noise),
    }
    files = {}
    for name, options in wanted.items():
        (folder / name).mkdir()
        target = find_target(name.removesuffix("-int8"), int8=options.int8, bake_preprocessing=False)
        files[name] = target.write(classifier, folder / name, options)
    return files


def export_theirs(network: nn.Module, size: int, folder: Path) -> dict[str, Path]:
    """Export torchvision's network as its documentation and OpenVINO's do."""
    import nncf

    openvino = require_openvino()
    example = torch.randn(2, 3, size, size)
    files = {name: folder / f"torchvision-{name}" for name in ("onnx", "openvino.xml", "openvino-int8.xml")}
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(network, (example,), files["onnx"], dynamic_shapes=(batch,), verbose=False)
    model = openvino.convert_model(network, example_input=example, input=[[-1, 3, size, size]])
    openvino.save_model(model, files["openvino.xml"], compress_to_fp16=False)
    quantised = nncf.quantize(model, nncf.Dataset(list(torch.randn(4, 1, 3, size, size).numpy())))
    openvino.save_model(quantised, files["openvino-int8.xml"], compress_to_fp16=False)
    return {name.removesuffix(".xml"): path for name, path in files.items()}


def torch_row(network: nn.Module) -> Row:
    """A network called by PyTorch."""
    network.eval()

    def run(pictures: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return network(torch.from_numpy(pictures))

    return run


def onnx_row(path: Path) -> Row:
    """A file called by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pictures: session.run(None, {name: pictures})


def openvino_row(path: Path, precision: str) -> Row:
    """A file called by OpenVINO, computing floating-point numbers in f32 or bf16."""
    return require_openvino().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})


def make_rows(size: int, folder: Path, *, compiled: bool) -> tuple[dict[str, Row], dict[str, Path]]:
    """Every row by its name, and the files of densekit's export."""
    torch.manual_seed(0)
    ours, theirs = create_model("densenet121").eval(), torchvision.models.densenet121().eval()
    theirs.load_state_dict(ours.state_dict())
    files, other_files = export_ours(ours, size, folder), export_theirs(theirs, size, folder)
    rows = {"torchvision eager": torch_row(theirs), "densekit eager": torch_row(ours)}
    fused = create_model("densenet121")
    rows["densekit fused"] = torch_row(fuse(fused))
    if compiled:
        rows["torchvision compiled"] = torch_row(torch.compile(theirs))
        rows["densekit compiled"] = torch_row(torch.compile(ours))
    owners = {"torchvision": other_files, "densekit": files}
    rows |= {f"{owner} onnxruntime": onnx_row(paths["onnx"]) for owner, paths in owners.items()}
    for name, file in (("f32", "openvino"), ("bf16", "openvino"), ("int8", "openvino-int8")):
        precision = "bf16" if name == "bf16" else "f32"  # of what is floating-point in it
        rows |= {f"{owner} openvino {name}": openvino_row(paths[file], precision) for owner, paths in owners.items()}
    return rows, files


def time_rows(rows: dict[str, Row], batch: int, size: int, runs: int) -> list[dict[str, object]]:
    """Let the rows take turns, after one that compiles and reserves memory."""
    pictures = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    calls = {name: partial(row, pictures) for name, row in rows.items()}
    interleave(calls, 1)
    samples = interleave(calls, runs, settle=True)
    return [{"row": name, "batch": batch, **summarise(times, "s")} for name, times in samples.items()]


def time_starts(files: dict[str, Path], size: int, runs: int) -> list[dict[str, object]]:
    """From the start of a process to its first answer for one picture."""
    calls = {}
    for name, code in STARTS.items():
        whole = f"import numpy\npath, pictures = {str(files[name])!r}, numpy.zeros((1, 3, {size}, {size}), 'f')\n{code}"
        calls[name] = partial(subprocess.run, [sys.executable, "-c", whole], check=True)
    interleave(calls, 1)
    samples = interleave(calls, runs)
    return [{"row": f"start {name}", "batch": 1, **summarise(times, "s")} for name, times in samples.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time DenseNet-121 in every runtime.")
    parser.add_argument("--runs", type=int, default=15, help="of each row and batch size, after one that warms up")
    parser.add_argument("--quick", action="store_true", help="64x64 pixels, two runs, nothing compiled: does it work?")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="leave torch.compile out")
    parser.add_argument("--write", action="store_true", help="write results/runtimes.csv")
    arguments = parser.parse_args()
    size, runs = (64, 2) if arguments.quick else (224, arguments.runs)

    where = setting("torch", "torchvision", "onnxruntime", "openvino", "nncf") | {"threads": torch.get_num_threads()}
    print(*(f"{name} {value}" for name, value in where.items()), sep=", ")
    with tempfile.TemporaryDirectory() as folder:
        rows, files = make_rows(size, Path(folder), compiled=arguments.compiled and not arguments.quick)
        table = [line for batch in (1, 16) for line in time_rows(rows, batch, size, runs)]
        table += time_starts(files, size, min(runs, 5))
    for line in table:
        spread = f"quartiles {line['q1_s']:.4f} to {line['q3_s']:.4f} s"
        print(f"{line['row']:<28} batch {line['batch']:>2}  median {line['median_s']:.4f} s, {spread}")
    if arguments.write:
        print(f"written to {write_results('runtimes', [{**where, 'size': size, **line} for line in table])}")


if __name__ == "__main__":
    main()
