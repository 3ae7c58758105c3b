"""The processes in which other frameworks compute, as far as they go without the framework."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from densekit.engine.swap import fuse
from densekit.errors import CheckpointError, ExportError, MissingPartError, SettingsError
from densekit.export.targets import TARGETS, Options
from densekit.export.twins import describe
from densekit.runtimes.exported import ExportedNetwork, open_exported
from densekit.runtimes.framework_worker import receive, send


def test_arrays_pass_through_a_pipe_one_after_the_other():
    arrays = [np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.zeros((0, 5), np.float32)]
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        with os.fdopen(write, "wb") as sink:
            for array in arrays:
                send(sink, array)
        for array in arrays:
            received = receive(source)
            np.testing.assert_array_equal(received, array, strict=True)
        with pytest.raises(EOFError):
            receive(source)


@pytest.fixture
def no_framework(monkeypatch) -> None:
    for name in ("KERAS", "MXNET"):
        monkeypatch.delenv(f"DENSEKIT_{name}_PYTHON", raising=False)
    monkeypatch.setattr("densekit.runtimes.frameworks.find_spec", lambda name: None)


@pytest.mark.usefixtures("no_framework")
@pytest.mark.parametrize(("target", "advice"), [("keras", "pip install keras"), ("mxnet", "mxnet/bin/pip install")])
def test_without_the_framework_one_line_says_how_to_get_it(target, advice, make, tmp_path):
    with pytest.raises(MissingPartError, match=f"^this needs {target}, which is not installed: .*{advice}"):
        TARGETS[target].write(make("densenet_plain_4_4_4_4"), tmp_path, Options())


@pytest.mark.parametrize("target", ["keras", "mxnet"])
def test_a_python_that_is_not_there_is_named(target, make, monkeypatch, tmp_path):
    variable = f"DENSEKIT_{target.upper()}_PYTHON"
    monkeypatch.setenv(variable, "/no/such/python")
    message = f"^cannot run /no/such/python, which {variable} names: No such file or directory$"
    with pytest.raises(MissingPartError, match=message):
        TARGETS[target].write(make("densenet_plain_4_4_4_4"), tmp_path, Options())


def test_what_the_other_python_lacks_is_told(make, monkeypatch, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setenv("DENSEKIT_MXNET_PYTHON", str(bare / "bin" / "python"))
    with pytest.raises(ExportError, match=r"^mxnet could not write model-symbol\.json: ModuleNotFoundError: No module"):
        TARGETS["mxnet"].write(make("densenet_plain_4_4_4_4"), tmp_path, Options())
    (tmp_path / "model-symbol.json").touch()
    with pytest.raises(CheckpointError, match=r"json cannot be opened by mxnet: ModuleNotFoundError: No module"):
        open_exported(tmp_path, {"target": "mxnet", "file": "model-symbol.json"})


@pytest.fixture
def channel_means(monkeypatch, tmp_path) -> ExportedNetwork:
    """A process whose Keras has one model, which gives each picture's mean of every channel, and takes its time."""
    model = "SimpleNamespace(predict_on_batch=lambda pictures: time.sleep(0.02) or pictures.mean((1, 2)))"
    (tmp_path / "keras.py").write_text(
        "import time\nfrom types import SimpleNamespace\n"
        f"saving = SimpleNamespace(load_model=lambda file, compile: {model})\n"
    )
    monkeypatch.setenv("DENSEKIT_KERAS_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "model.keras").touch()
    return open_exported(tmp_path, {"target": "keras", "file": "model.keras"})


def test_threads_may_ask_at_the_same_time(channel_means):
    pictures = torch.rand(32, 1, 3, 4, 4)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(channel_means, pictures))
    torch.testing.assert_close(torch.stack(answers), pictures.mean((3, 4)))


def test_after_an_interruption_no_answer_is_another_pictures(channel_means, monkeypatch):
    """Ctrl-C while the process computes leaves an answer in the pipe that nobody waited for."""
    monkeypatch.setattr("densekit.runtimes.framework_worker.receive", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        channel_means(torch.zeros(1, 3, 4, 4))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"keras cannot take pictures \(1, 3, 4, 4\)"):
        channel_means(torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("target", ["keras", "mxnet"])
def test_other_networks_are_refused(target, make, tmp_path):
    message = f"^{target} takes densekit's DenseNets of pictures, not this {{}}: export it to onnx, openvino or torch$"
    with pytest.raises(SettingsError, match=message.format("resnet14_cifar")):
        TARGETS[target].write(make("resnet14_cifar"), tmp_path, Options())
    with pytest.raises(SettingsError, match=message.format("densenet121")):
        TARGETS[target].write(make("densenet121", spatial_dims=3), tmp_path, Options())


def test_a_fused_network_is_described_as_its_stock_one(make, tmp_path):
    options = {"block_config": [2, 1], "growth_rate": 4}
    fused = make("densenet121", **options)
    fuse(fused.network)
    for name, classifier in (("stock", make("densenet121", **options)), ("fused", fused)):
        (tmp_path / name).mkdir()
        describe(classifier, "keras", tmp_path / name)
    texts = [(tmp_path / name / "options.json").read_text() for name in ("stock", "fused")]
    assert texts[0] == texts[1]
    with np.load(tmp_path / "stock" / "weights.npz") as stock, np.load(tmp_path / "fused" / "weights.npz") as same:
        assert stock.files == same.files
        for key in stock.files:
            np.testing.assert_array_equal(stock[key], same[key], strict=True)
