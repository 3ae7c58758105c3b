import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.picture_set import PictureSet
from densekit.data.preprocessing import Preprocessing
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.errors import CheckpointError
from densekit.evaluation.calibration import calibration_error, confidence_bins
from densekit.evaluation.evaluate import Evaluation
from densekit.evaluation.metrics import compute_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.export.export import export_run
from densekit.models.catalogue import create_model
from densekit.report.costs import count_costs
from densekit.report.page import _calibration, render_page
from densekit.report.pictures import least_certain
from densekit.report.write import write_report
from densekit.training.run_folder import RunFolder

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module", params=["report_file", "hostile_file"])
def page(request, read_page):
    return read_page(request.getfixturevalue(request.param).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report_page(report_file, read_page):
    return read_page(report_file.read_text(encoding="utf-8"))


@pytest.fixture
def guessed(tmp_path):
    """The page of random answers to random pictures: ``guessed(classes=100, pictures=3000, right=0.5)``."""

    def make(classes: int, pictures: int, right: float) -> str:
        random = torch.Generator().manual_seed(0)
        labels = torch.arange(pictures) % classes
        logits = torch.randn(pictures, classes, generator=random)
        chosen = torch.rand(pictures, generator=random) < right
        logits[chosen, labels[chosen]] += 8
        outcomes = Outcomes(logits, labels, torch.arange(pictures))
        names = tuple(f"Class number {i} of a rather long name" for i in range(classes))
        network = create_model("simple_cnn", num_classes=classes, image_size=(16, 16))
        classifier = Classifier(network, names, Preprocessing(size=(16, 16)))
        pixels = np.random.default_rng(0).integers(0, 256, (pictures, 120, 160, 3), np.uint8)
        seen = PictureSet(pixels, labels.numpy(), "test")
        metrics = compute_metrics(outcomes, names, split="test")
        evaluation = Evaluation(metrics, outcomes, seen, tmp_path, classifier, None)
        return render_page(evaluation, RunFolder(tmp_path), QUIET)

    return make


class TestSelfContained:
    def test_nothing_is_loaded_and_nothing_runs(self, page):
        assert not {"script", "link", "iframe", "object", "base", "form"} & {name for name, _ in page.elements}
        for name, attributes in page.elements:
            for key, value in attributes.items():
                assert not key.startswith("on"), (name, key)
                if key in {"src", "srcset", "data", "action", "poster", "xlink:href"}:
                    assert value.startswith("data:image/jpeg;base64,"), (name, key)

    def test_the_browser_is_told_to_load_nothing(self, page):
        policies = [meta["content"] for meta in page.every("meta") if meta.get("http-equiv")]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]

    def test_no_url_at_all(self, report_file):
        source = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", report_file.read_text(encoding="utf-8"))
        assert not re.search(r"https?:|url\(|@import|//", source)

    def test_links_lead_to_places_on_the_page(self, page):
        ids = page.ids()
        assert len(ids) == len(set(ids))
        assert {link["href"] for link in page.every("a")} <= {f"#{name}" for name in ids}


class TestForEverybody:
    def test_pictures_have_words(self, page):
        assert page.every("img")
        assert all(picture["alt"] for picture in page.every("img"))
        assert all(chart["aria-label"] for chart in page.every("svg"))

    def test_table_headers_say_what_they_head(self, page):
        assert page.every("th")
        assert {header.get("scope") for header in page.every("th")} == {"row", "col"}


class TestFigures:
    def test_are_those_of_evaluate(self, report_file, report_page):
        metrics = json.loads((report_file.parent / "metrics.json").read_text(encoding="utf-8"))
        low, high = metrics["accuracy_interval_95"]
        assert metrics["accuracy"] == 0.96
        assert f"test accuracy 96.00 % 95 % interval {100 * low:.2f} % to {100 * high:.2f} %" in report_page.text
        assert f"calibration error {100 * metrics['calibration_error']:.2f} %" in report_page.text

    def test_one_mistake_is_everywhere(self, report_page):
        cells = [link for link in report_page.every("a") if link["href"].startswith("#behind-")]
        # three right cells and one wrong one, which stands in the list of mistakes too
        assert [link["href"] for link in cells] == [
            *("#behind-0-0", "#behind-1-1", "#behind-1-2", "#behind-2-2"),
            "#behind-1-2",
        ]
        # behind its cell and as the worst mistake
        words = [picture["alt"] for picture in report_page.every("img")]
        assert words.count("grün/200.png: grün, answered red") == 2

    def test_training_and_data(self, report_page):
        assert "kept: epoch" in report_page.text
        assert "class training validation test" in report_page.text
        assert "deep blue 18 2 8 grün 18 2 9 red 18 2 8" in report_page.text
        assert "Files left out None." in report_page.text
        assert "learned" not in report_page.text  # what is only said of training pictures
        assert f"torch {torch.__version__}" in report_page.text

    def test_pictures_are_the_pictures(self, report_page, colours):
        mistake = next(p for p in report_page.every("img") if p["alt"] == "grün/200.png: grün, answered red")
        copy = Image.open(io.BytesIO(base64.b64decode(mistake["src"].partition(",")[2])))
        with Image.open(colours / "test" / "grün" / "200.png") as original:
            assert copy.size == original.size
            np.testing.assert_allclose(np.asarray(copy).mean((0, 1)), np.asarray(original).mean((0, 1)), atol=3)

    def test_heat_maps_are_beside_mistakes_and_doubts(self, report_page):
        maps = [picture for picture in report_page.every("img") if picture["alt"].startswith("What in it spoke for")]
        assert len(maps) == 1 + 12
        assert maps[0]["alt"] == "What in it spoke for red"


class TestHostileNames:
    def test_are_text(self, hostile_file, hostile_names, read_page):
        page = read_page(hostile_file.read_text(encoding="utf-8"))
        assert all(name in page.text for name in hostile_names)
        assert "<script>alert(1)<.png" in page.text
        assert "\\udcff.png" in page.text
        assert {attributes.get("src", "data:")[:5] for _, attributes in page.elements} == {"data:"}

    def test_file_that_cannot_be_read_is_named(self, hostile_file, read_page):
        page = read_page(hostile_file.read_text(encoding="utf-8"))
        assert "broken <b>.png" in page.text
        assert "not a picture of a known format" in page.text


class TestSizes:
    def test_many_classes_and_mistakes_stay_within_bounds(self, guessed, read_page):
        source = guessed(classes=100, pictures=1500, right=0.3)
        page = read_page(source)
        assert (
            len(page.every("img")) <= 400 + 24 + 2 * 24
        )  # behind cells, suspects, mistakes and doubts with their maps
        assert len(source) < 8e6  # noise hardly compresses: photographs take a third
        assert "Of 100 classes, these are the 40 with the most mistakes" in page.text
        matrix = source.partition('<table class="matrix">')[2].partition("</table>")[0]
        assert matrix.count("<tr>") == 41
        assert matrix.count("<td") == 40 * 40

    def test_two_classes_and_six_right_answers(self, guessed, read_page):
        page = read_page(guessed(classes=2, pictures=6, right=1.0))
        assert "Worst mistakes None: every answer is right." in page.text
        assert "Likely label errors None found." in page.text
        assert "There is no history of the training beside the model." in page.text
        assert "No temperature was fitted" in page.text


def test_other_split_says_what_it_is(colour_run, tmp_path, read_page):
    text = {
        split: read_page(
            write_report(colour_run, split=split, out=tmp_path / split, device="cpu", screen=QUIET).read_text("utf-8")
        ).text
        for split in ("train", "val")
    }
    assert "which the network has learned from: they say nothing about others" in text["train"]
    assert "so it cannot judge them" in text["train"]
    assert "which chose the epoch that was kept" in text["val"]


def test_a_table_may_mix_whole_and_relative_paths(colour_run, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(colours / "test" / "red", tmp_path / "own")
    red = sorted((colours / "test" / "red").iterdir())[0]
    Path("table.csv").write_text(f"path,label\n{red},grün\nown/{red.name},grün\n", encoding="utf-8")
    page = write_report(colour_run, "table.csv", out="report", device="cpu", screen=QUIET).read_text("utf-8")
    assert red.name in page
    assert "<dt>accuracy</dt>" in page  # of no split


def test_damaged_history_is_one_line(colour_run, tmp_path):
    run = shutil.copytree(colour_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (run / "history.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(CheckpointError, match=r"history\.csv does not hold the history of a run"):
        write_report(run, device="cpu", screen=QUIET)


def test_an_exported_folder_has_a_report_without_costs(colour_run, colours, tmp_path, read_page):
    exported = export_run(colour_run, to="torch", out=tmp_path / "exported", screen=QUIET).folder
    text = read_page(write_report(exported, colours, device="cpu", screen=QUIET).read_text("utf-8")).text
    assert "There is no history of the training beside the model." in text
    assert "multiply-adds" not in text


def test_costs_of_a_fused_network_are_those_of_the_stock_one_and_nothing_is_said(caplog):
    stock, fused = (create_model("densenet_bc100_k12_cifar", block_config=[2, 2], num_classes=2) for _ in range(2))
    networks = stock, fuse(fused)
    costs = [count_costs(Classifier(network, ("a", "b"), Preprocessing(size=(32, 32))), []) for network in networks]
    assert costs[0] == costs[1]
    assert not caplog.messages
    assert any(isinstance(module, Fused) for module in fused.modules())


def test_costs_are_counted_by_hand():
    """One 3x3 convolution of 8x8 pixels and one linear layer; backward costs twice the forward, but for the input's."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(256, 2, bias=False))
    history = [{"seconds": 2.0, "pictures_per_s": 10.0}, {"seconds": 1.0, "pictures_per_s": 30.0}]
    costs = count_costs(Classifier(network, ("a", "b"), Preprocessing(size=(8, 8))), history)
    convolution, linear = 64 * 27 * 4, 256 * 2
    assert (costs.parameters, costs.macs) == (108 + 512, convolution + linear)
    assert (costs.seconds, costs.pictures) == (3, 50)
    assert costs.flops == 50 * 2 * (2 * convolution + 3 * linear)


def test_probabilities_are_shown_with_and_without_the_temperature(tmp_path):
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.5, 0.0]])  # as densekit answers
    outcomes = Outcomes(logits, torch.tensor([0, 1, 1, 0]), torch.arange(4))
    classifier = Classifier(nn.Identity(), ("a", "b"), Preprocessing(size=(4, 4)), temperature=2.0)
    metrics = compute_metrics(outcomes, classifier.classes, split="test")
    evaluation = Evaluation(metrics, outcomes, PictureSet([], [], "test"), tmp_path, classifier, None)
    (_, raw, *_), (_, answered, *_) = _calibration(evaluation)["reliability"]
    for error, values in ((raw, 2 * logits), (answered, logits)):
        assert error == calibration_error(confidence_bins(values, outcomes.labels))
    assert raw != answered


def test_what_is_asked_for_reaches_the_evaluation(monkeypatch):
    asked = {
        "split": "val",
        "out": "o",
        "data_root": "d",
        "batch_size": 7,
        "device": "cpu",
        "precision": "bf16",
        "workers": 3,
        "strict": True,
        "screen": QUIET,
    }
    seen = []

    def note(*given, **options):
        seen.append((given, options))
        raise CheckpointError("seen")

    monkeypatch.setattr("densekit.report.write.evaluate", note)
    with pytest.raises(CheckpointError, match="seen"):
        write_report("run", "data", **asked)
    assert seen == [(("run", "data"), asked)]


def test_doubts_come_least_certain_first():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
    assert least_certain(probabilities, torch.tensor([0, 0, 1, 0]), 2) == [1, 2]  # the last one is wrong
