"""The report of a classifier whose pictures have any number of labels."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.picture_set import PictureSet
from densekit.data.preprocessing import Preprocessing
from densekit.evaluation.evaluate import Evaluation
from densekit.evaluation.multilabel import compute_multilabel_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model
from densekit.report.labels import surest_mistakes, wrong_labels
from densekit.report.page import render_page
from densekit.report.write import write_report
from densekit.training.run_folder import RunFolder
from densekit.training.train import train

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def evaluation():
    """Answers to four grey pictures: all right, a missed label, a label too many, and both."""
    names = ("cat", "<b>dog</b>", "elk")
    labels = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    answers = torch.tensor([[3.0, -3, -3], [2, -4, -3], [-2, 0.5, -3], [1, -1, -3]])
    network = create_model("simple_cnn", num_classes=3, in_channels=1, image_size=(8, 8))
    classifier = Classifier(network, names, Preprocessing(channels=1, size=(8, 8)), multilabel=True)
    pictures = PictureSet(np.zeros((4, 8, 8), np.uint8), labels.numpy(), "test")
    outcomes = Outcomes(answers, labels, torch.arange(4))
    metrics = compute_multilabel_metrics(outcomes, names, split="test")
    return Evaluation(metrics, outcomes, pictures, None, classifier, None)


def test_the_surest_mistakes_come_first(evaluation):
    found = wrong_labels(evaluation, QUIET)
    missed = [(each.picture.name, each.label) for each in found["missed"]]
    assert missed == [("test/1", "<b>dog</b>"), ("test/3", "<b>dog</b>")]
    assert found["missed"][0].probability == pytest.approx(torch.tensor(-4.0).sigmoid().item())
    too_many = [(each.picture.name, each.label) for each in found["wrongly_found"]]
    assert too_many == [("test/3", "cat"), ("test/2", "<b>dog</b>")]
    assert found["wrongly_found"][1].picture.label == "none"
    assert found["missed"][0].picture.label == "cat, <b>dog</b>"
    assert [each.picture.answer for each in found["missed"]] == ["cat", "cat"]
    assert all(each.picture.heat_map for each in found["missed"] + found["wrongly_found"])


def test_thresholds_decide_what_is_wrong(evaluation, tmp_path, read_page):
    outcomes = replace(evaluation.outcomes, thresholds=(0.5, 0.2, 0.5))  # the dog of the last picture is found now
    metrics = compute_multilabel_metrics(outcomes, evaluation.classifier.classes, split="test")
    found = replace(evaluation, outcomes=outcomes, metrics=metrics)
    missed = [(each.picture.name, each.label) for each in wrong_labels(found, QUIET)["missed"]]
    assert missed == [("test/1", "<b>dog</b>")]
    page = read_page(render_page(found, RunFolder(tmp_path), QUIET))
    assert "labelled <b>dog</b> , answered cat, <b>dog</b>" in page.text
    assert "20.0" in page.text


def test_mistakes_are_as_sure_as_they_are_far_from_their_thresholds(evaluation):
    """A probability of 40 % is a surer yes where 1 % is enough than 60 % where it takes 50."""
    logits, labels = torch.tensor([[0.4, -0.4, -9.0]]), torch.zeros(1, 3)
    outcomes = Outcomes(logits, labels, torch.zeros(1, dtype=torch.int64), thresholds=(0.5, 0.01, 0.5))
    found = wrong_labels(replace(evaluation, outcomes=outcomes), QUIET)
    assert [each.label for each in found["wrongly_found"]] == ["<b>dog</b>"]
    assert found["wrongly_found"][0].probability == pytest.approx(0.4013, abs=1e-4)
    assert not found["missed"]


def test_a_picture_is_shown_once_with_its_worst_label():
    sureness = torch.tensor([[0.9, 0.99], [0.4, 0.1], [0.6, 0.97]])
    wrong = torch.tensor([[True, True], [False, False], [True, False]])
    assert surest_mistakes(sureness, wrong, 12) == [(0, 1), (2, 0)]
    assert surest_mistakes(sureness, wrong, 1) == [(0, 1)]


def test_the_page_shows_every_label_and_no_name_breaks_out(evaluation, tmp_path, read_page):
    page = read_page(render_page(evaluation, RunFolder(tmp_path), QUIET))
    for row in evaluation.metrics.classes:
        assert row.name in page.text
    assert not page.every("b dog")
    assert "on 4 test pictures of 3 labels" in page.text
    assert "every label right 25.00\xa0% 95 % interval".replace("\xa0", " ") in page.text.replace("\xa0", " ")
    assert "labelled cat, <b>dog</b> , answered cat" in page.text
    assert "Missed" in page.text
    assert "Confusion" not in page.text


def test_nothing_wrong(evaluation, tmp_path, read_page):
    right = replace(evaluation.outcomes, logits=8 * evaluation.outcomes.labels - 4)
    metrics = compute_multilabel_metrics(right, evaluation.classifier.classes, split="test")
    page = read_page(render_page(replace(evaluation, outcomes=right, metrics=metrics), RunFolder(tmp_path), QUIET))
    assert page.text.count("None.") >= 2


def test_of_a_run(label_run, tmp_path, read_page):
    path = write_report(label_run, out=tmp_path / "report", device="cpu", screen=QUIET)
    page = read_page(path.read_text(encoding="utf-8"))
    charts = [each.get("aria-label") or "" for each in page.every("svg")]
    assert any(chart.startswith("mean average precision after each epoch") for chart in charts)
    assert "halves" in page.text
    assert all(name in page.text for name in load_classifier(label_run, device="cpu").classes)


@pytest.mark.parametrize("split", ["val_fraction", "no_label_to_validate_on"])
def test_of_a_run_that_could_not_rank(split, halves, tmp_path, read_page):
    table, lines = tmp_path / "table.csv", halves.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines[1:41]]
    val = 0 if split == "val_fraction" else 5
    rows = [[f"{halves.parent}/{name}", "" if i < val else labels] for i, (name, labels, _) in enumerate(rows)]
    splits = ["val"] * val + ["test"] * 10 + ["train"] * (30 - val)
    text = "\n".join(",".join([*row, split]) for row, split in zip(rows, splits, strict=True))
    table.write_text("path,labels,split\n" + text, encoding="utf-8")
    fixed = {"model": "simple_cnn", "epochs": 1, "batch_size": 10, "device": "cpu", "workers": 0, "tensorboard": False}
    told = Screen(console=Console(file=io.StringIO(), record=True, width=1000))
    run = train(table, out=tmp_path / "run", val_fraction=0, screen=told, **fixed)
    page = read_page(write_report(run.folder, device="cpu", screen=QUIET).read_text(encoding="utf-8"))
    assert "every label right" in page.text
    text = told.console.export_text()
    assert ("validation mean average precision - (no picture has a label) on 5 pictures" in text) == bool(val)
