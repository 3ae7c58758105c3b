"""Values of a classifier: temperature, precision, class names."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.errors import CheckpointError, SettingsError, UnknownNameError
from densekit.hardware import choose_precision
from densekit.loading import load_classifier


class TestTemperature:
    def test_divides_the_logits_and_changes_no_answer(self, classifier):
        classifier.network.eval()
        pictures = torch.randn(5, 3, 8, 8)
        warm = replace(classifier, temperature=2.5).probabilities(pictures)
        with torch.no_grad():
            expected = (classifier.network(pictures).double() / 2.5).softmax(1)
        torch.testing.assert_close(warm, expected.float())
        assert torch.equal(warm.argmax(1), classifier.probabilities(pictures).argmax(1))

    def test_travels_with_the_model(self, classifier, tmp_path):
        replace(classifier, temperature=0.75).save(tmp_path)
        assert load_classifier(tmp_path, device="cpu").temperature == 0.75

    def test_is_1_where_there_is_none(self, classifier, tmp_path):
        classifier.save(tmp_path)
        record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        del record["temperature"]
        (tmp_path / "model.json").write_text(json.dumps(record), encoding="utf-8")
        assert load_classifier(tmp_path, device="cpu").temperature == 1.0

    @pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
    def test_must_be_above_0(self, classifier, tmp_path, wrong):
        with pytest.raises(SettingsError, match="it must be above 0"):
            replace(classifier, temperature=wrong)
        classifier.save(tmp_path)
        record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        (tmp_path / "model.json").write_text(json.dumps({**record, "temperature": wrong}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="it must be above 0"):
            load_classifier(tmp_path)


class TestPrecision:
    def test_is_that_of_the_answers(self, classifier, tmp_path):
        classifier.save(tmp_path)
        pictures = torch.randn(5, 3, 8, 8)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = classifier.network.eval()(pictures).float().softmax(1)
        single, half = (load_classifier(tmp_path, device="cpu", precision=name) for name in ("fp32", "bf16"))
        assert torch.equal(half.probabilities(pictures), expected)
        assert torch.equal(single.probabilities(pictures), classifier.probabilities(pictures))
        assert not torch.equal(single.probabilities(pictures), expected)

    def test_is_single_unless_told_and_stays_here(self, classifier, tmp_path):
        classifier.save(tmp_path / "first")
        assert load_classifier(tmp_path / "first").precision == "fp32"
        load_classifier(tmp_path / "first", precision="bf16").save(tmp_path / "second")
        first, second = ((tmp_path / name / "model.json").read_bytes() for name in ("first", "second"))
        assert first == second

    def test_auto_is_what_the_processor_computes_in(self, classifier, tmp_path):
        classifier.save(tmp_path)
        chosen = choose_precision("auto", torch.device("cpu"))
        assert load_classifier(tmp_path, device="cpu", precision="auto").precision == chosen

    @pytest.mark.parametrize(("wrong", "told"), [("half", "use one of auto, fp32"), ("fp16", "fp16 needs a GPU")])
    def test_that_there_is_not(self, classifier, tmp_path, wrong, told):
        classifier.save(tmp_path)
        with pytest.raises(SettingsError, match=told):
            load_classifier(tmp_path, device="cpu", precision=wrong)


@pytest.mark.parametrize("wrong", ["bf17", "auto"])
def test_a_precision_that_nothing_computes_in(classifier, wrong):
    with pytest.raises(UnknownNameError, match=f"precision '{wrong}'"):
        replace(classifier, precision=wrong)


class TestClasses:
    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            (("a", "b", "a", "c"), "class 'a' is named twice"),
            ((0, 1, 2, 3), "class 0 is no name: give text, such as '0'"),
            ("abc", "give the name of each class"),
            ((), "give the name of each class"),
        ],
        ids=str,
    )
    def test_are_names(self, classifier, classes, message):
        with pytest.raises(SettingsError, match=message):
            replace(classifier, classes=classes)

    def test_may_be_a_list(self, classifier):
        assert replace(classifier, classes=list("abcd")).classes == tuple("abcd")

    def test_named_twice_in_a_file(self, classifier, tmp_path):
        classifier.save(tmp_path)
        record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        (tmp_path / "model.json").write_text(json.dumps({**record, "classes": list("aabc")}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"model\.json: class 'a' is named twice"):
            load_classifier(tmp_path)


class TestPreprocessing:
    def test_one_number_stands_for_all(self):
        assert Preprocessing(size=8, mean=0.5, std=2) == Preprocessing(size=(8, 8), mean=(0.5,), std=(2.0,))

    def test_that_does_not_fit_in_a_file(self, classifier, tmp_path):
        classifier.save(tmp_path)
        record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        record["preprocessing"] |= {"channels": 1, "mean": [0.1, 0.2, 0.3]}
        (tmp_path / "model.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"model\.json: preprocessing: .*mean=.* give one value"):
            load_classifier(tmp_path)


def test_a_network_keeps_its_mode_whatever_threads_ask(classifier):
    """The one that leaves first must not put another's network back into training mode."""
    network = nn.Sequential(nn.Conv2d(3, 8, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    asked = Classifier(network, classifier.classes, classifier.preprocessing)
    expected, before = replace(asked, network=deepcopy(network).eval()), deepcopy(network.state_dict())
    batches = [torch.randn(1 + number % 3, 3, 8, 8) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(asked.probabilities, batches))
    for probabilities, batch in zip(seen, batches, strict=True):
        torch.testing.assert_close(probabilities, expected.probabilities(batch))
    assert network.training
    assert network[1].training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
