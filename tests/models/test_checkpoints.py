"""Checkpoint files of any origin, and those that must be refused."""

import argparse
import os
import re
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from densekit.errors import CheckpointError
from densekit.models.catalogue import create_model
from densekit.models.checkpoints import read_checkpoint
from densekit.models.transfer import transfer


def old_names(tensors):
    """As in the files that torchvision offers: norm.1 for norm1, and no counts of batches."""
    kept = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in kept.items()}


def under(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


def chexnet(tensors):
    """Zhou's CheXNet: DataParallel around a module whose densenet121 ends in linear and sigmoid in sequence."""
    renamed = {re.sub(r"^classifier\.", "classifier.0.", key): value for key, value in old_names(tensors).items()}
    return {"state_dict": under("module.densenet121.", renamed), "epoch": 3, "best_loss": 0.5}


# name -> what a training script makes of a state dict; all are saved with torch.save
WRAPPERS = {
    "plain": lambda t: t,
    "old_names": old_names,
    "data_parallel": lambda t: under("module.", t),
    "compiled": lambda t: under("_orig_mod.", t),
    "lightning": lambda t: {"state_dict": under("model.", t), "global_step": 3, "callbacks": {"a": {"b": None}}},
    "torchvision_references": lambda t: {"model": t, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}},
    "model_state": lambda t: {"model_state": under("module._orig_mod.", t), "classes": ["a", "b"]},
    "chexnet": chexnet,
    "half": lambda t: {key: value.half() if value.is_floating_point() else value for key, value in t.items()},
    "old_timm": lambda t: {
        "epoch": 1,
        "arch": "x",
        "state_dict": {k: v + 1 for k, v in t.items()},
        "state_dict_ema": t,
    },
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_whatever_a_script_wraps_around_torchvisions_weights(wrap, zipped, foreign, small, pictures, same, tmp_path):
    theirs, ours = foreign("torchvision"), small()
    content = wrap(theirs.state_dict())
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    result = transfer(ours, read_checkpoint(tmp_path / "file.pth"))
    assert result.complete
    assert (result.adapted, result.new) == ({}, {})
    if wrap is WRAPPERS["half"]:
        theirs.half().double()
    same(ours(pictures), theirs(pictures))
    running = set(theirs.state_dict()) - {key for key in theirs.state_dict() if key.endswith("num_batches_tracked")}
    assert set(result.loaded) >= running


def test_what_is_left_over_is_named(foreign, small, tmp_path):
    content = WRAPPERS["torchvision_references"](foreign("torchvision").state_dict())
    torch.save(content, tmp_path / "file.pth")
    result = transfer(small(), read_checkpoint(tmp_path / "file.pth"))
    assert result.unused == ("optimizer.state.0.momentum_buffer",)
    assert str(result).endswith("left over in the file: optimizer.state.0.momentum_buffer")


@pytest.mark.parametrize("library", ["torchvision", "timm", "monai"])
@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_other_libraries(library, format, foreign, small, pictures, same, tmp_path):
    theirs, ours, path = foreign(library), small(), tmp_path / "weights"
    save_file(theirs.state_dict(), path) if format == "safetensors" else torch.save(theirs.state_dict(), path)
    result = transfer(ours, read_checkpoint(path))  # the content decides, not the name
    assert (result.adapted, result.new, result.unused) == ({}, {}, ())
    same(ours(pictures), theirs(pictures))


def test_monai_in_3d(foreign, small, same):
    theirs, ours = foreign("monai", dims=3), small(spatial_dims=3)
    transfer(ours, theirs.state_dict())
    x = torch.randn(1, 3, 33, 33, 33, dtype=torch.float64)
    same(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("seresnet50", "se_resnet50")]
)
def test_resnets_of_timm(theirs, ours, randomise, same, pictures):
    original = randomise(timm.create_model(theirs, num_classes=7))
    copy = create_model(ours, num_classes=7).double().eval()
    result = transfer(copy, original.state_dict())
    assert (result.new, result.unused) == ({}, ())
    same(copy(pictures), original(pictures))


class Command:
    """A pickle of this runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(zipped, tmp_path):
    hostile, trace = tmp_path / "hostile.pth", tmp_path / "was here"
    content = {"state_dict": {"fc.weight": torch.ones(2, 2)}, "extra": Command(trace)}
    torch.save(content, hostile, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(hostile)
    assert not trace.exists()
    assert str(caught.value).startswith(f"{hostile} is refused, because reading it would call {os.system.__module__}.")
    assert "\n" not in str(caught.value)


def script(path):
    traced = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(traced, path)


def export(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def cut(path):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def pickled(path):
    # written by hand: densekit has no pickle, and newer protocols are what plain pickle.dump writes
    path.write_bytes(b"\x80\x04\x95\x15\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.")


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")


def compress(path):
    """A megabyte of zeros in a kilobyte: a thousand times as much would fill the memory."""
    torch.save({"a": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)


def turn_bits(path):
    torch.save({"a": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)


UNREADABLE = {
    "empty_pickle": (lambda p: p.write_bytes(b"\x80\x02"), "is damaged, or not a torch.save file \\(\\w"),
    "bits_turned": (turn_bits, "is damaged: .*data/0 in it does not have its checksum"),
    "compressed": (compress, "is not as torch.save writes it: .*/data.pkl in it is compressed"),
    "whole_module": (lambda p: torch.save(nn.Linear(2, 2), p), r"torch.nn.modules.linear.Linear, .*\(model.state_dict"),
    "script": (script, "is a TorchScript program, no weights"),
    "program": (export, "is a program of torch.export, no weights"),
    "plain_pickle": (pickled, "refused, because it needs more than torch's safe reader"),
    "cut": (cut, "is damaged, or not a torch.save file \\("),
    "empty": (lambda p: p.write_bytes(b""), "is neither a safetensors nor a torch.save file$"),
    "text": (lambda p: p.write_bytes(b"hello world, a text"), "is neither a safetensors nor a torch.save file$"),
    "html": (
        lambda p: p.write_bytes(b"<!DOCTYPE html><html></html>"),
        "is neither a safetensors nor a torch.save file$",
    ),
    "cut_safetensors": (lambda p: p.write_bytes(b"\xff\0\0\0\0\0\0\0{"), "is damaged, or not a safetensors"),
    "zip": (archive, "is damaged, or not a torch.save file \\("),
    "missing": (lambda p: None, "cannot read .*No such file"),
    "folder": (lambda p: p.mkdir(), "cannot read .*directory"),
    "no_tensors": (lambda p: torch.save({"epoch": 3, "names": ["a"]}, p), "contains no named tensors: save"),
    "a_number": (lambda p: torch.save(3, p), "contains no named tensors"),
    "a_tensor": (lambda p: torch.save(torch.ones(3), p), "contains no named tensors"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(("write", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_files_that_hold_no_weights_get_one_line(write, message, tmp_path):
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_holds_itself_comes_to_an_end(tmp_path):
    content = {"fc.weight": torch.ones(1)}
    content["again"] = content
    torch.save(content, tmp_path / "file.pth")
    assert 0 < len(read_checkpoint(tmp_path / "file.pth")) < 20


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_training_scripts_save_beside_weights_is_read_without_running_anything(zipped, tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, model="densenet121", sizes=[224, np.int64(3)]),
        "best": np.float64(0.5),
        "epoch": np.int32(3),
        "curve": np.ones((2, 2), np.float32),
    }
    path = tmp_path / "file.pth"
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, **beside}, path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path).keys() == {"state_dict.fc.weight"}
    if not zipped:  # as written with NumPy 1
        path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
        assert read_checkpoint(path).keys() == {"state_dict.fc.weight"}


def test_tensors_in_lists_sparse_and_without_values(tmp_path):
    values = torch.eye(3)
    content = {"model": [{"a": values, "b": values.to_sparse()}], "c": torch.ones(2, device="meta")}
    torch.save(content, tmp_path / "file.pth")
    tensors = read_checkpoint(tmp_path / "file.pth")
    assert tensors.keys() == {"model.0.a", "model.0.b"}
    assert torch.equal(tensors["model.0.b"], values)


def test_a_file_without_checksums_is_not_damaged(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(300)}, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_checkpoint(tmp_path / "file.pth")["a"], torch.arange(300))
