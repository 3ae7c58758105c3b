"""Weights by name, from a server on this machine in the place of the real ones; from folders and files."""

import hashlib
import json
import math

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import DenseNet121_Weights

from densekit import create_model, list_models
from densekit.errors import CheckpointError, UnknownNameError
from densekit.models.pretrained import find_weights, load_weights
from densekit.models.published import published_names, timm_names, torchvision_weights
from densekit.models.weights import save_model

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.21, 0.22]}

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """A file as torchvision publishes them, of random weights: its bytes, and the beginning of its checksum."""
    path = tmp_path_factory.mktemp("torchvision") / "file"
    torch.save(torchvision.models.densenet121().state_dict(), path)
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:8]


@pytest.fixture
def imagenet(web, imagenet_file, monkeypatch):
    """Publish it on the local server, and tell torchvision so; returns the name of the file."""
    content, checksum = imagenet_file
    file = f"densenet121-{checksum}.pth"
    (web.folder / file).write_bytes(content)
    monkeypatch.setattr(DenseNet121_Weights.DEFAULT.value, "url", f"{web.url}/{file}")
    return file


def test_imagenet_is_downloaded_once_and_checked(imagenet, web, cache, screen):
    weights = find_weights("imagenet", model="densenet121", screen=screen)
    assert [path.name for path in cache.iterdir()] == [imagenet]
    assert (weights.mean, weights.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert weights.classes is not None
    assert (len(weights.classes), weights.classes[0]) == (1000, "tench")
    again = find_weights("imagenet", screen=screen)
    assert web.requested == [f"/{imagenet}"]
    assert again.model == weights.model == "densenet121"


def test_create_model_with_imagenet_gives_torchvisions_logits(imagenet, web, capsys):
    model = create_model("densenet121", weights="imagenet").eval()
    theirs = torchvision.models.densenet121(weights="DEFAULT", progress=False).eval()  # from the same server
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), theirs(x), atol=1e-4, rtol=1e-4)
    assert capsys.readouterr().err.startswith("weights imagenet: 727 of 727 tensors taken")
    assert "weights" not in model.architecture["options"]


def test_what_torch_has_downloaded_before_is_used(imagenet, imagenet_file, web, tmp_path, cache):
    place = tmp_path / "torch" / "hub" / "checkpoints" / imagenet
    place.parent.mkdir(parents=True)
    place.write_bytes(imagenet_file[0])
    find_weights("imagenet")
    assert web.requested == []
    assert not cache.exists()


@pytest.mark.parametrize("trouble", ["missing", "corrupt", "down"])
def test_offline_one_line_says_which_file_to_put_where(trouble, imagenet, web, cache, dead_url, monkeypatch):
    url = web.url
    if trouble == "missing":
        (web.folder / imagenet).unlink()
    elif trouble == "corrupt":
        (web.folder / imagenet).write_bytes(b"a captive portal's page")
    else:
        url = dead_url
        monkeypatch.setattr(DenseNet121_Weights.DEFAULT.value, "url", f"{url}/{imagenet}")
    with pytest.raises(CheckpointError) as caught:
        create_model("densenet121", weights="imagenet")
    message = str(caught.value)
    assert message.startswith(f"cannot download {imagenet} (")
    assert message.endswith(f"put {imagenet} from {url} into {cache}")
    assert "\n" not in message
    assert {"missing": "404", "corrupt": "wrong checksum", "down": "refused"}[trouble] in message
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_named(imagenet, imagenet_file, web, cache):
    cache.mkdir(parents=True)
    (cache / imagenet).write_bytes(imagenet_file[0][:-1])
    with pytest.raises(CheckpointError, match=rf"{imagenet} is damaged \(wrong checksum .*\): delete it$"):
        find_weights("imagenet")
    assert web.requested == []
    (cache / imagenet).write_bytes(imagenet_file[0])  # as the message of the test above asks for
    assert len(find_weights("imagenet").tensors) == 727


def test_imagenet_for_a_network_without_published_weights():
    with pytest.raises(CheckpointError, match=r"densenet264 has no published ImageNet weights; choose one of"):
        create_model("densenet264", weights="imagenet")


def test_a_run_folder_gives_its_network_back(small, pictures, tmp_path, same):
    source, target = small(in_channels=3), small()
    save_model(tmp_path, source, classes=list("abcdefg"), preprocessing=NORMALISATION)
    assert load_weights(target, tmp_path, classes=list("abcdefg")).new == {}
    same(target(pictures), source(pictures))
    other = load_weights(small(), tmp_path, classes=list("gfedcba"))
    assert other.new == dict.fromkeys(("classifier.weight", "classifier.bias"), "for other classes")


def test_the_last_checkpoint_of_a_run_serves_too(tmp_path, small):
    model = small()
    tensors = {f"network.{key}": value for key, value in model.state_dict().items()}
    save_file({**tensors, "optimizer.0.momentum_buffer": torch.ones(2)}, tmp_path / "last.safetensors")
    assert load_weights(small(), tmp_path / "last.safetensors").unused == ("optimizer.0.momentum_buffer",)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("imagnet", UnknownNameError, "did you mean: imagenet"),
        ("densenet121.ra_in22k", UnknownNameError, "did you mean: densenet121.ra_in1k"),
        ("nowhere/model.pth", CheckpointError, "cannot read nowhere/model.pth: No such file"),
        ("model.pth", CheckpointError, "cannot read model.pth: No such file"),
        (".", CheckpointError, "holds no weights: there is no model.safetensors in it"),
    ],
)
def test_weights_that_are_nowhere(name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        find_weights(name)


@pytest.mark.parametrize("text", ["{", "[]", '{"pretrained_cfg": {"mean": "grey"}}', '{"pretrained_cfg": 3}'])
def test_a_damaged_configuration_is_named(text, timm_files, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(timm_files["model.safetensors"])
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json is damaged, or not a timm configuration"):
        find_weights(tmp_path)


@pytest.mark.parametrize("change", [{"preprocessing": 3}, {"classes": 3}, {"architecture": {"name": "densenet121"}}])
def test_a_damaged_record_is_named(change, small, tmp_path):
    save_model(tmp_path, small())
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(CheckpointError, match=r"model.json is damaged \("):
        find_weights(tmp_path)


def test_weights_of_another_network_are_named(small, tmp_path):
    save_model(tmp_path, create_model("resnet14_cifar"))
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: the weights are of another network: they have \S+ "):
        load_weights(small(), tmp_path)


@pytest.mark.parametrize("model", [name for name in list_models() if timm_names(name)])
def test_the_names_are_timms_and_their_network_is_the_same(model):
    known = set(timm.list_models(pretrained=True))
    for name in timm_names(model):
        assert name in known
        assert timm.get_pretrained_cfg(name).hf_hub_id == f"timm/{name}"
    with torch.device("meta"):
        theirs, ours = timm.create_model(timm_names(model)[0].partition(".")[0]), create_model(model)
    sizes = [{key: math.prod(value.shape) for key, value in m.state_dict().items()} for m in (theirs, ours)]
    assert sizes[0] == sizes[1]


def test_torchvisions_best_weights_are_taken_from_its_tables():
    named = [name for name in list_models() if "imagenet" in published_names(name)]
    assert named[:4] == ["densenet121", "densenet169", "densenet201", "densenet161"]
    assert named[4:] == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    for name in named:
        assert torchvision_weights(name) is torchvision.models.get_model_weights(name).DEFAULT
        assert torchvision_weights(name).url.startswith("https://download.pytorch.org/models/")
