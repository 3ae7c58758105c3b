import json
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.engine.create import create_model as create_fusable
from densekit.errors import SettingsError, UnknownNameError
from densekit.models.catalogue import count_parameters, create_model, list_models
from densekit.models.ending import embed
from densekit.models.weights import load_model, save_model


@pytest.mark.parametrize("name", list_models())
def test_every_network_builds_for_any_classes_and_channels(name: str):
    with torch.device("meta"):  # shapes only: quick for the largest ones too
        model = create_model(name, num_classes=7, in_channels=5)
    weights = list(model.parameters())
    assert (weights[0].shape[1], *weights[-1].shape) == (5, 7)
    assert (model.num_classes, model.in_channels) == (7, 5)
    assert model.minimum_size <= 32


@pytest.mark.parametrize("name", ["simple_cnn", "vgg11_bn_cifar", "se_resnet18", "densenet40_k12_cifar"])
def test_a_network_is_built_again_from_its_record(name: str):
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, in_channels=5)
    record = json.loads(json.dumps(model.architecture))
    torch.manual_seed(0)
    again = create_model(record["name"], **record["options"])
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    assert again.architecture == record == model.architecture
    assert again(torch.rand(2, 5, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("pattern", "some", "none"),
    [
        pytest.param("*", "resnet18", None, id="all"),
        pytest.param("vgg1", "vgg11_bn_cifar", "resnet18", id="part_of_a_name"),
        pytest.param("RESNET??", "resnet50", "resnet101", id="wildcards_and_capitals"),
        pytest.param("dense*", "densenet121", "se_resnet18", id="family"),
    ],
)
def test_list_models(pattern: str, some: str, none: str | None):
    names = list_models(pattern)
    assert some in names
    assert none not in names
    assert list_models("no such") == []


def test_options_replace_the_named_ones_and_lists_serve_as_tuples():
    model = create_model("resnet18", num_classes=4, layers=[1, 1], widths=[8, 16], stem="cifar")
    assert model.forward_features(torch.rand(1, 3, 8, 8)).shape == (1, 16, 4, 4)
    named = {"block": "basic", "layers": [1, 1], "widths": [8, 16], "stem": "cifar"}
    options = {**named, "num_classes": 4, "in_channels": 3}
    assert model.architecture == {"name": "resnet18", "options": options}


def test_two_networks_of_a_name_share_nothing():
    first = create_model("resnet14_cifar", num_classes=2)
    first.architecture["options"]["layers"].append(9)
    assert create_model("resnet14_cifar", num_classes=2).architecture["options"]["layers"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet19", {}, UnknownNameError, "resnet18"),
        ("ResNet18", {}, UnknownNameError, "resnet18"),
        ("resnet18", {"growth_rate": 12}, SettingsError, "no option 'growth_rate'; it has: block, layers"),
        ("resnet18", {"num_classes": -1}, SettingsError, "num_classes is -1, must be a whole number of at least 0"),
        ("resnet18", {"in_channels": 0}, SettingsError, "in_channels is 0, must be a whole number of at least 1"),
        ("resnet18", {"in_channels": "3"}, SettingsError, "in_channels is '3'"),
        ("resnet18", {"block": nn.ReLU}, SettingsError, "cannot be saved"),
    ],
)
def test_errors_say_what_would_work(name: str, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        create_model(name, **options)


def test_count_parameters_counts_frozen_ones_and_no_buffers():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).requires_grad_(False)
    assert count_parameters(model) == 30 + 6


@pytest.mark.parametrize(
    "name", ["densenet_bc100_k12_cifar", "resnet20_cifar", "vgg11_bn_cifar", "simple_cnn", "timm:resnet18"]
)
def test_without_classes_it_gives_what_the_last_layer_would_read(name: str, tmp_path: Path):
    whole, headless = create_model(name, num_classes=7).eval(), create_model(name, num_classes=0).eval()
    missing, left_over = headless.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert {key.rpartition(".")[2] for key in left_over} == {"weight", "bias"}
    assert len(left_over) == 2
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(headless(pictures), embed(whole, pictures))
    save_model(tmp_path, headless)
    again, _ = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(pictures), headless(pictures))


def test_trained_weights_without_their_head(tmp_path: Path):
    whole = create_model("densenet_bc100_k12_cifar", num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    headless = create_fusable("densenet_bc100_k12_cifar", num_classes=0, weights=tmp_path / "w.pth", fused=True).eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(headless(pictures), embed(whole.eval(), pictures), rtol=1e-4, atol=1e-5)
