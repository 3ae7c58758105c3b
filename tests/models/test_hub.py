"""Repositories of the Hugging Face Hub, from a stand-in on this machine, through the Hub's own client."""

import pytest
import torch

from densekit.errors import CheckpointError
from densekit.models.hub import fetch_hub
from densekit.models.pretrained import find_weights, load_weights
from densekit.models.weights import save_model


@pytest.mark.parametrize("name", ["densenet121.ra_in1k", "hf-hub:timm/densenet121.ra_in1k"])
def test_timms_weights_come_from_the_hub_once(name, hub, timm_files, small, screen):
    hub("timm/densenet121.ra_in1k", {**timm_files, "pytorch_model.bin": b"the same", "README.md": b"text"})
    weights = find_weights(name, screen=screen)
    assert (weights.model, weights.mean, weights.std) == ("densenet121", (0.5, 0.4, 0.3), (0.2, 0.21, 0.22))
    assert load_weights(small(), weights, screen=screen).complete
    assert f"weights {name}: " in screen.console.export_text()
    downloads = {path for path in hub.requested if "/resolve/" in path}
    assert {path.rpartition("/")[2] for path in downloads} == {"config.json", "model.safetensors"}
    before = len(hub.requested)
    find_weights(name, screen=screen)
    assert len(hub.requested) == before + 2  # whether there is anything new


def test_what_is_new_there_is_downloaded_and_a_revision_is_what_it_was(hub, timm_files):
    first = hub("me/mine", timm_files)
    assert find_weights("hf-hub:me/mine").mean == (0.5, 0.4, 0.3)
    changed = timm_files["config.json"].replace(b"0.5, 0.4, 0.3", b"0.1, 0.1, 0.1")
    hub("me/mine", {**timm_files, "config.json": changed})
    assert find_weights("hf-hub:me/mine").mean == (0.1, 0.1, 0.1)
    assert find_weights(f"hf-hub:me/mine@{first}").mean == (0.5, 0.4, 0.3)


def test_without_the_hub_what_was_downloaded_serves(hub, timm_files, dead_url, monkeypatch):
    hub("me/mine", timm_files)
    find_weights("hf-hub:me/mine")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", dead_url)
    assert find_weights("hf-hub:me/mine").mean == (0.5, 0.4, 0.3)
    with pytest.raises(CheckpointError, match=r"cannot download me/other \(.+\): put its files into a folder and name"):
        find_weights("hf-hub:me/other")


def test_a_run_that_was_uploaded_brings_its_classes_and_preprocessing(hub, small, tmp_path):
    model = small(num_classes=2, in_channels=1).float()
    save_model(tmp_path / "run", model, classes=["a", "b"], preprocessing={"mean": [0.3], "std": [0.2]})
    hub("me/mine", {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()})
    weights = find_weights("hf-hub:me/mine")
    assert (weights.classes, weights.mean, weights.std) == (("a", "b"), (0.3,), (0.2,))
    assert weights.model == "densenet121"
    assert weights.options["growth_rate"] == 8
    assert not {"num_classes", "in_channels"} & weights.options.keys()


def test_a_repository_with_a_pickle_only_is_read_safely(hub, foreign, tmp_path):
    torch.save(foreign("timm").state_dict(), tmp_path / "w")
    hub("me/old", {"pytorch_model.bin": (tmp_path / "w").read_bytes()})
    assert find_weights("hf-hub:me/old").mean is None


def test_a_file_that_is_not_what_the_hub_says_is_refused_and_not_kept(hub, timm_files):
    hub("me/mine", timm_files)
    hub.published["model.safetensors"] = b"what the hub knows"
    with pytest.raises(CheckpointError, match=r"model.safetensors came damaged from the hub \(wrong checksum"):
        find_weights("hf-hub:me/mine")
    hub.published.clear()
    assert find_weights("hf-hub:me/mine").mean == (0.5, 0.4, 0.3)


def test_no_file_that_runs_code_is_downloaded(hub, screen):
    code = dict.fromkeys(("model.pt2", "model.keras", "train.py"), b"code")
    hub("me/mine", {"model.json": b"{}", **code, "model-00001-of-9.safetensors": b""})
    assert [path.name for path in fetch_hub("me/mine", screen).iterdir()] == ["model.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:no/body", "the hub has no no/body, or it is private"),
        ("hf-hub:me/text", "me/text on the hub holds neither model.safetensors nor pytorch_model.bin"),
        ("hf-hub:me/text@v9", "me/text on the hub has no revision 'v9'"),
        ("hf-hub:../../etc", "does not name a repository: write hf-hub:OWNER/NAME"),
        ("hf-hub:alone", "does not name a repository"),
    ],
)
def test_repositories_that_cannot_serve(name, message, hub):
    hub("me/text", {"README.md": b"text"})
    with pytest.raises(CheckpointError, match=message) as caught:
        find_weights(name)
    assert "\n" not in str(caught.value)
