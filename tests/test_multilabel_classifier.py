"""A classifier whose pictures may have any number of labels."""

import json
from dataclasses import replace

import pytest
import torch

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.errors import CheckpointError, SettingsError
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model

CLASSES = ("cat", "dög", "great tit", "elk")


@pytest.fixture
def several() -> Classifier:
    torch.manual_seed(0)
    network = create_model("simple_cnn", num_classes=4, image_size=(8, 8))
    return Classifier(network, CLASSES, Preprocessing(size=(8, 8)), temperature=2.0, multilabel=True)


def test_each_class_has_a_probability_of_its_own(several):
    pictures = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = 1 / (1 + (-several.network.eval()(pictures) / 2).exp())
    torch.testing.assert_close(several.probabilities(pictures), expected)


@pytest.mark.parametrize(
    ("probabilities", "top", "named", "labels"),
    [
        pytest.param([0.1, 0.9, 0.6, 0.2], 1, ("dög", "great tit"), ("dög", "great tit"), id="all_that_are_likely"),
        pytest.param([0.1, 0.9, 0.6, 0.2], 3, ("dög", "great tit", "elk"), ("dög", "great tit"), id="more"),
        pytest.param([0.1, 0.2, 0.5, 0.0], 2, ("great tit", "dög"), (), id="none"),
        pytest.param([0.6, 0.7, 0.8, 0.9], 99, CLASSES[::-1], CLASSES[::-1], id="all"),
    ],
)
def test_the_answer(several, probabilities, top, named, labels):
    answer = several.name_likeliest("a.png", torch.tensor(probabilities), top)
    assert tuple(label for label, _ in answer.top) == named
    assert answer.labels == labels
    written = answer.to_dict()
    assert written["labels"] == list(labels)
    assert "label" not in written


@pytest.mark.parametrize(
    ("top", "named", "labels"),
    [
        pytest.param(1, ("dög", "great tit", "elk"), ("dög", "elk"), id="down_to_the_last_that_is_answered"),
        pytest.param(4, ("dög", "great tit", "elk", "cat"), ("dög", "elk"), id="more"),
    ],
)
def test_thresholds_decide_the_answer(several, top, named, labels):
    own = replace(several, thresholds=(0.5, 0.8, 0.7, 0.1))
    answer = own.name_likeliest("a.png", torch.tensor([0.1, 0.9, 0.6, 0.2]), top)
    assert tuple(label for label, _ in answer.top) == named
    assert answer.labels == labels


@pytest.mark.parametrize(
    ("further", "said"),
    [
        pytest.param({"thresholds": [0.5, 0.5, 1.0, 0.2]}, "give 4 between 0 and 1, one for each label", id="certain"),
        pytest.param({"thresholds": ["a"] * 4}, "give 4 between 0 and 1", id="words"),
        pytest.param({"thresholds": 0.3}, "give 4 between 0 and 1", id="one_number"),
        pytest.param({"thresholds": [0.3]}, "give 4 between 0 and 1", id="too_few"),
        pytest.param({"thresholds": [0.3] * 4, "multilabel": False}, "for several labels a picture", id="one_class"),
    ],
)
def test_thresholds_that_a_person_gave(several, tmp_path, further, said):
    several.save(tmp_path)
    record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(record | {"thresholds": [0.1, 0.2, 0.3, 0.4]}))
    assert load_classifier(tmp_path, device="cpu").thresholds == (0.1, 0.2, 0.3, 0.4)
    (tmp_path / "model.json").write_text(json.dumps(record | further))
    with pytest.raises(CheckpointError, match=f"model.json: .*{said}"):
        load_classifier(tmp_path, device="cpu")
    with pytest.raises(SettingsError, match=said):
        replace(several, **further)
    assert replace(several, thresholds=torch.full((4,), 0.5)).thresholds == (0.5,) * 4


def test_saved_and_loaded(several, tmp_path):
    several.save(tmp_path / "several")
    again = load_classifier(tmp_path / "several", device="cpu")
    assert again.multilabel
    assert again.thresholds is None
    pictures = torch.randn(5, 3, 8, 8)
    assert torch.equal(again.probabilities(pictures), several.probabilities(pictures))
    assert "4 labels" in repr(again)
    replace(several, multilabel=False).save(tmp_path / "one")
    assert "multilabel" not in json.loads((tmp_path / "one" / "model.json").read_text())
    assert not load_classifier(tmp_path / "one", device="cpu").multilabel
