import pytest
import torch

from densekit.errors import CheckpointError, SettingsError, UnknownNameError
from densekit.runtimes.exported import RUNTIMES, ExportedNetwork, open_exported


def test_network_stays_in_evaluation_mode_on_the_cpu():
    network = ExportedNetwork(lambda pictures: pictures.mean((2, 3)))
    assert not network.train().training
    assert not network.eval().training
    for place in (torch.device("cpu"), "cpu", torch.bfloat16, torch.ones(1)):
        assert network.to(place) is network
    with pytest.raises(SettingsError, match="densekit runs exported networks on the CPU"):
        network.to(device="meta")
    assert network(torch.ones(2, 3, 4, 4)).tolist() == [[1, 1, 1]] * 2


@pytest.mark.parametrize(
    ("record", "error", "says"),
    [
        ({"target": "onx", "file": "a"}, UnknownNameError, "unknown export target 'onx'; did you mean: onnx"),
        ({"file": "a"}, UnknownNameError, "unknown export target 'None'"),
        ({"target": "onnx"}, CheckpointError, "file is None, should be 'model.onnx'"),
        ({"target": "onnx", "file": "../model.onnx"}, CheckpointError, "should be 'model.onnx'"),
        ({"target": "torch", "file": "model.bin"}, CheckpointError, "should be 'model.pt2'"),
        ({"target": "onnx", "file": "model.onnx"}, CheckpointError, "model.onnx: No such file"),
    ],
    ids=["typo", "no_target", "no_file", "outside", "disguised", "missing"],
)
def test_record_that_makes_no_sense(tmp_path, record, error, says):
    with pytest.raises(error, match=says):
        open_exported(tmp_path, record)


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
def test_damaged_file_is_named(tmp_path, target):
    name = RUNTIMES[target].file
    (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=f"{name} cannot be opened by"):
        open_exported(tmp_path, {"target": target, "file": name})
