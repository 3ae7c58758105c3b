"""timm's networks by name: the same as timm's own, saved, loaded, and started from their published weights."""

import json

import pytest
import timm
import torch
from safetensors.torch import save

from densekit import create_model, list_models
from densekit.errors import CheckpointError, SettingsError, UnknownNameError
from densekit.models.catalogue import model_options, picture_size
from densekit.models.pretrained import find_weights, load_weights
from densekit.models.transfer import head_name
from densekit.models.weights import load_model, save_model

# a head of its own kind each: linear, below "head", with a second one for distillation, with tied weights
NETWORKS = ("resnet10t", "convnext_atto", "deit_tiny_distilled_patch16_224", "coat_lite_tiny")


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_it_is_timms_network_and_comes_back_from_disk(name, tmp_path):
    ours = create_model(f"timm:{name}", num_classes=5, in_channels=1).eval()
    theirs = timm.create_model(name, num_classes=5, in_chans=1).eval()
    theirs.load_state_dict(ours.state_dict())
    pictures = torch.randn(1, 1, 224, 224)
    torch.testing.assert_close(ours(pictures), theirs(pictures), atol=0, rtol=0)
    save_model(tmp_path, ours)
    again, _ = load_model(tmp_path)
    torch.testing.assert_close(again(pictures), ours(pictures), atol=0, rtol=0)


def test_weights_under_two_names_are_saved_under_both(tmp_path):
    network = create_model("timm:coat_tiny", num_classes=2)
    pointers = [value.data_ptr() for value in network.state_dict().values()]
    assert len(set(pointers)) < len(pointers)
    save_model(tmp_path, network)
    for key, value in load_model(tmp_path)[0].state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], atol=0, rtol=0)


def test_names_sizes_and_options():
    assert "timm:convnext_atto" in list_models("timm:*next_a*")
    assert "timm:convnext_atto" not in list_models()
    assert picture_size("timm:inception_v4") == 299
    assert "img_size" in model_options("timm:deit_tiny_distilled_patch16_224")  # of the class that it is derived from
    wide = create_model("timm:resnet10t", num_classes=2, stem_width=16, drop_rate=0.1)
    assert wide.architecture["options"] == {"stem_width": 16, "drop_rate": 0.1, "num_classes": 2, "in_channels": 3}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:resnet5", UnknownNameError, "unknown model 'timm:resnet5'; did you mean: timm:resnet50"),
        (
            "timm:resnet50.ra2_in1k",
            UnknownNameError,
            "unknown weights 'timm:resnet50.ra2_in1k'; did you mean: ",
        ),
        ("timm:local-dir:.", UnknownNameError, "unknown model 'timm:local-dir:.'"),
    ],
)
def test_unknown_names(name, error, message):
    with pytest.raises(error, match=message):
        create_model(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 3}, "has no option 'in_chans'; here it is in_channels"),
        ({"depht": 3}, "timm:vit_tiny_patch16_224 has no option 'depht'; it has: img_size"),
        ({"num_heads": 5}, "timm:vit_tiny_patch16_224 cannot be built with .*: "),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(SettingsError, match=message):
        create_model("timm:vit_tiny_patch16_224", **options)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay"])
def test_no_file_makes_timm_read_another(option, tmp_path):
    """A model.json from elsewhere must not name a pickle that timm then opens."""
    save_model(tmp_path, create_model("timm:resnet10t", num_classes=2))
    record = json.loads((tmp_path / "model.json").read_text())
    record["architecture"]["options"][option] = "evil.pth"
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=f"names a network that cannot be built: .* has no option '{option}'"):
        load_model(tmp_path)


@pytest.fixture
def published(hub):
    """timm's repository of resnet10t: the network whose weights are in it."""
    network = timm.create_model("resnet10t").eval()
    config = {"architecture": "resnet10t", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}}
    files = {"model.safetensors": save(network.state_dict()), "config.json": json.dumps(config).encode()}
    hub("timm/resnet10t.c3_in1k", files)
    return network


@pytest.mark.parametrize(
    ("source", "model"),
    [("imagenet", "timm:resnet10t"), ("timm:resnet10t.c3_in1k", None), ("hf-hub:timm/resnet10t.c3_in1k", None)],
)
@torch.no_grad()
def test_published_weights_bring_their_network_and_normalisation(source, model, published):
    weights = find_weights(source, model=model)
    assert (weights.model, weights.mean) == ("timm:resnet10t", (0.4, 0.5, 0.6))
    network = create_model("timm:resnet10t")
    assert load_weights(network, weights).complete
    pictures = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network.eval()(pictures), published(pictures), atol=0, rtol=0)


@torch.no_grad()
def test_published_weights_for_other_classes_and_grey_pictures(published, screen):
    network = create_model("timm:resnet10t", num_classes=3, in_channels=1)
    result = load_weights(network, "imagenet", screen=screen)
    assert result.new.keys() == {"fc.weight", "fc.bias"} == result.head
    torch.testing.assert_close(network.conv1[0].weight, published.conv1[0].weight.sum(1, keepdim=True))
    assert "mean something else" not in screen.console.export_text()


def test_the_first_convolution_need_not_be_the_first_tensor():
    colour, grey = (create_model("timm:vit_tiny_patch16_224", num_classes=2, in_channels=c, depth=1) for c in (3, 1))
    assert load_weights(grey, colour).adapted == {"patch_embed.proj.weight": "3 input channels to 1"}


@pytest.mark.parametrize(
    ("name", "head"), [("convnext_atto", "head.fc"), ("deit_tiny_distilled_patch16_224", "head"), ("resnet10t", "fc")]
)
def test_the_head_is_what_timm_says(name, head):
    assert head_name(timm.create_model(name)) == head


def test_a_network_that_both_have_takes_weights_of_either_without_doubt(tmp_path, screen):
    save_model(tmp_path, create_model("densenet121", num_classes=3))
    load_weights(create_model("timm:densenet121", num_classes=3), tmp_path, screen=screen)
    assert "727 of 727 tensors taken" in (told := screen.console.export_text())
    assert "mean something else" not in told


def test_a_network_without_published_weights():
    with pytest.raises(SettingsError, match="timm:botnet50ts_256 has no published weights: leave --weights out"):
        find_weights("imagenet", model="timm:botnet50ts_256")
