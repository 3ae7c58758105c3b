import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from densekit.errors import CheckpointError
from densekit.models.catalogue import create_model
from densekit.models.weights import load_model, save_model


def tiny(**options) -> nn.Module:
    return create_model("resnet14_cifar", num_classes=3, layers=[1, 1], widths=[4, 8], **options)


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda model: model, id="plain"),
        pytest.param(lambda model: model.double(), id="float64"),
        pytest.param(lambda model: model.bfloat16(), id="bfloat16"),
        pytest.param(lambda model: model.to(memory_format=torch.channels_last), id="channels_last"),
        pytest.param(lambda model: torch.compile(model, backend="eager"), id="compiled"),
        pytest.param(lambda model: model.requires_grad_(False), id="frozen"),
    ],
)
def test_what_is_saved_comes_back(tmp_path: Path, prepare):
    model = prepare(tiny(se_reduction=2))
    save_model(tmp_path / "run", model, classes=["ä", "b", "c"], preprocessing={"mean": [0.5]})
    again, record = load_model(tmp_path / "run")
    assert record == {"classes": ["ä", "b", "c"], "preprocessing": {"mean": [0.5]}}
    assert again.architecture == model.architecture
    assert not again.training
    saved = {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}
    torch.testing.assert_close(again.state_dict(), saved, atol=0, rtol=0)
    x = torch.rand(2, 3, 8, 8, dtype=next(again.parameters()).dtype)
    torch.testing.assert_close(again(x), model.eval()(x))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model.json", "model.safetensors"]


def test_a_loaded_network_can_be_trained_and_saved_over_its_own_file(tmp_path: Path):
    save_model(tmp_path, tiny())
    model, _ = load_model(tmp_path)
    model.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
    save_model(tmp_path, model, epoch=2)
    again, record = load_model(tmp_path)
    assert record == {"epoch": 2}
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_the_file_is_what_other_tools_read(tmp_path: Path):
    model = tiny()
    save_model(tmp_path, model)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert json.loads((tmp_path / "model.json").read_text())["format"] == 1


def change_json(folder: Path, **changes) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FOLDERS = {
    "no_record": (lambda f: (f / "model.json").unlink(), "cannot read .*model.json: No such file"),
    "no_weights": (lambda f: (f / "model.safetensors").unlink(), "cannot read .*safetensors: No such file"),
    "half_a_record": (lambda f: cut_in_half(f / "model.json"), "model.json is damaged"),
    "binary_record": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x80"), "model.json is damaged"),
    "half_the_weights": (lambda f: cut_in_half(f / "model.safetensors"), "safetensors is damaged"),
    "empty_weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "safetensors is damaged"),
    "foreign_record": (
        lambda f: (f / "model.json").write_text('{"model_type": "bert"}'),
        "not written by densekit",
    ),
    "list_record": (lambda f: (f / "model.json").write_text("[]"), "not written by densekit"),
    "newer": (lambda f: change_json(f, format=2), "format 2, this densekit reads 1"),
    "unknown_network": (
        lambda f: change_json(f, architecture={"name": "x", "options": {}}),
        "cannot be built",
    ),
    "no_options": (lambda f: change_json(f, architecture={"name": "resnet18"}), "cannot be built"),
    "odd_options": (
        lambda f: change_json(f, architecture={"name": "resnet18", "options": {"layers": "abcd"}}),
        "cannot be built",
    ),
    "missing_tensor": (
        lambda f: change_weights(f, lambda t: t.pop("fc.bias")),
        r"fc.bias is nothing, should be \(3,\)",
    ),
    "extra_tensor": (
        lambda f: change_weights(f, lambda t: t.update(x=torch.ones(1))),
        "x is .*, should be nothing",
    ),
    "other_shape": (
        lambda f: change_weights(f, lambda t: t.update({"fc.bias": torch.ones(5)})),
        r"does not fit resnet14_cifar: fc.bias is \(5,\), should be \(3,\)",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_bad_folders_get_one_line(tmp_path: Path, spoil, message: str):
    save_model(tmp_path, tiny())
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_networks_that_can_be_rebuilt_are_saved(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot save this Linear"):
        save_model(tmp_path / "run", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="its own entry 'format'"):
        save_model(tmp_path / "run", tiny(), format="mine")
    assert not (tmp_path / "run").exists()
