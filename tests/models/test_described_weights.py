"""What the files beside weights say about them, and weights that come without a file."""

import json

import pytest
import torch

from densekit.errors import CheckpointError, UnknownNameError
from densekit.models.pretrained import find_weights, load_weights
from densekit.models.weights import save_model

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.21, 0.22]}


def test_the_file_of_a_run_stands_for_the_run(small, tmp_path, capsys):
    save_model(tmp_path, small(), classes=list("abcdefg"), preprocessing=NORMALISATION)
    weights = find_weights(tmp_path / "model.safetensors")
    assert weights.classes == tuple("abcdefg")
    assert weights.mean == tuple(NORMALISATION["mean"])
    assert load_weights(small(), weights, classes=list("gfedcba")).new.keys() == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize("given", ["folder", "file"])
def test_options_that_make_another_function_are_told(given, small, tmp_path, screen):
    source = small(activation="leaky_relu", pooling="max", drop_rate=0.2)
    save_model(tmp_path, source, classes=list("abcdefg"))
    load_weights(small(), tmp_path / ("model.safetensors" if given == "file" else ""), screen=screen)
    told = screen.console.export_text()
    assert "are of a densenet121 with activation 'leaky_relu', pooling 'max', so they mean something else here" in told
    same = small(activation="leaky_relu", pooling="max", drop_rate=0.5)
    load_weights(same, tmp_path, screen=screen)
    assert "mean something else" not in screen.console.export_text()


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        ({"architecture": "densenetblur121d"}, "timm:densenetblur121d"),
        ({"architecture": "resnet50"}, "resnet50"),
        ({"architecture": "densenet121", "model_args": {"act_layer": "gelu"}}, "timm's densenet121 with {'act_layer':"),
    ],
    ids=["unknown", "another", "changed"],
)
def test_a_folder_of_timms_that_says_it_is_another_network_is_believed(
    config, theirs, timm_files, small, screen, tmp_path
):
    (tmp_path / "model.safetensors").write_bytes(timm_files["model.safetensors"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_weights(small(), tmp_path, screen=screen)
    assert f"are of {theirs}" in screen.console.export_text()


def test_label_names_of_timm_are_class_names(timm_files, small, screen, tmp_path):
    config = json.loads(timm_files["config.json"]) | {"label_names": list("abcdefg")}
    (tmp_path / "model.safetensors").write_bytes(timm_files["model.safetensors"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_weights(small(), tmp_path, classes=list("abcdefg"), screen=screen).new == {}
    assert "mean something else" not in screen.console.export_text()
    assert load_weights(small(), tmp_path, classes=list("gfedcba"), screen=screen).new


def test_a_state_dict_serves_too(small, pictures, same, capsys):
    source, target = small(), small()
    load_weights(target, source.state_dict())
    same(target(pictures), source(pictures))
    assert capsys.readouterr().err.startswith("weights of a state dict: ")


@pytest.mark.parametrize("given", ["network", "checkpoint"])
def test_what_holds_a_state_dict_serves_too(given, small, pictures, same):
    source, target = small(), small()
    weights = source if given == "network" else {"epoch": 3, "model": source.state_dict(), 1: torch.zeros(3)}
    load_weights(target, weights)
    same(target(pictures), source(pictures))


def test_state_dicts_without_values(small):
    for nothing in ({}, {"epoch": 3}, small().to("meta").state_dict()):
        with pytest.raises(CheckpointError, match="of a state dict: there are no tensors with values in it"):
            load_weights(small(), nothing)
    with pytest.raises(CheckpointError, match="the network is on the meta device"):
        load_weights(small().to("meta"), small().state_dict())


def test_no_name_is_no_folder():
    with pytest.raises(UnknownNameError, match="weights ''"):
        find_weights("")
