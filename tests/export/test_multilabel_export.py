"""Exports of a classifier whose pictures have any number of labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from densekit.console import Screen
from densekit.evaluation.evaluate import evaluate
from densekit.export.card import model_card
from densekit.export.export import export_run
from densekit.export.push import push
from densekit.loading import load_classifier

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def onnx(label_run, tmp_path_factory):
    return export_run(label_run, to="onnx", out=tmp_path_factory.mktemp("onnx") / "out", screen=QUIET)


def test_it_answers_and_is_tested_alike(onnx, label_run, halves):
    trained, exported = load_classifier(label_run, device="cpu"), load_classifier(onnx.folder)
    assert exported.multilabel
    files = [halves.parent / f"{i}.png" for i in range(8)]
    for before, after in zip(trained.predict(files), exported.predict(files), strict=True):
        assert before.labels == after.labels
        assert dict(after.top) == pytest.approx(dict(before.top), abs=1e-5)
    assert onnx.comparison.agreement == 1
    figures = evaluate(onnx.folder, halves, out=onnx.folder.parent / "figures", screen=QUIET).metrics.to_dict()
    assert figures["mean_average_precision"] > 0.95


def test_probabilities_follow_as_the_card_says(onnx, label_run, halves):
    import onnxruntime

    card = (onnx.folder / "README.md").read_text(encoding="utf-8")
    classifier = load_classifier(label_run, device="cpu")
    assert f"the sigmoid of `logits / {classifier.temperature:.6g}`" in card
    prediction = classifier.predict(halves.parent / "3.png", top=3)[0]
    from densekit.data.pictures import read_picture

    pixels = classifier.preprocessing(read_picture(halves.parent / "3.png"))[None].numpy()
    session = onnxruntime.InferenceSession(onnx.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
    shares = 1 / (1 + np.exp(-np.asarray(logits)[0] / classifier.temperature))
    assert dict(zip(classifier.classes, shares, strict=True)) == pytest.approx(dict(prediction.top), abs=1e-4)


def test_thresholds_go_along(label_run, halves, tmp_path):
    import onnx as reader

    classifier = replace(load_classifier(label_run, device="cpu"), thresholds=(0.9, 0.25, 0.001))
    classifier.save(tmp_path / "run")
    (tmp_path / "run" / "settings.yaml").write_bytes((label_run / "settings.yaml").read_bytes())
    (tmp_path / "run" / "splits.csv").write_bytes((label_run / "splits.csv").read_bytes())
    folder = export_run(tmp_path / "run", to="onnx", out=tmp_path / "out", screen=QUIET).folder
    metadata = {entry.key: entry.value for entry in reader.load(folder / "model.onnx").metadata_props}
    assert json.loads(metadata["thresholds"]) == [0.9, 0.25, 0.001]
    assert "above its probability under `thresholds` there" in (folder / "README.md").read_text(encoding="utf-8")
    files = [halves.parent / f"{i}.png" for i in range(8)]
    before, after = (each.predict(files) for each in (classifier, load_classifier(folder)))
    assert [each.labels for each in before] == [each.labels for each in after]
    assert [each.labels for each in before] != [
        each.labels for each in replace(classifier, thresholds=None).predict(files)
    ]


def test_the_card_has_its_figures(onnx, label_run):
    text = (onnx.folder / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    result = yaml.safe_load(header)["model-index"][0]["results"][0]
    assert result["metrics"][0]["type"] == "mAP"
    assert result["metrics"][0]["value"] > 0.95
    assert "Test means over the labels: average precision" in body
    assert "every label right on" in body
    assert "## Labels" in body
    assert "Its weakest label is" in body
    unknown = {**json.loads((label_run / "metrics.json").read_text()), "mean_average_precision": None}
    assert "model-index" not in model_card(load_classifier(label_run, device="cpu"), unknown, use="x")
    untested = model_card(load_classifier(label_run, device="cpu"), None, use="x")
    assert "Not tested" in untested


def test_an_answer_that_gains_a_label_is_another_answer(label_run, halves):
    from densekit.data.datasets import open_labelled
    from densekit.export.compare import compare
    from densekit.export.targets import Tolerance

    trained = load_classifier(label_run, device="cpu")

    class Generous(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = trained.network

        def forward(self, pictures):
            return self.network(pictures) + torch.tensor([50.0, 0.0, 0.0])

    pictures = open_labelled(halves, classes=trained.classes, multilabel=True)
    found = compare(trained, replace(trained, network=Generous()), pictures, Tolerance(1.0, 0.0), screen=QUIET)
    each = trained.probabilities(torch.stack([trained.preprocessing(pictures.read(i)) for i in range(len(pictures))]))
    assert found.largest_probability_difference == pytest.approx(1 - each[:, 0].min().item(), abs=1e-4)
    with_first = pictures.labels[:, 0].mean()
    assert found.agreement == pytest.approx(with_first, abs=0.1)
    never = replace(trained, thresholds=(1 - 1e-9, 0.5, 0.5))  # the first label is in no answer of either
    assert (
        compare(never, replace(never, network=Generous()), pictures, Tolerance(1.0, 0.0), screen=QUIET).agreement == 1
    )


def test_the_hubs_card_names_the_labels(label_run, monkeypatch, tmp_path):
    from huggingface_hub import HfApi

    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **kwargs: None)

    def commit(self, repository, operations, **kwargs):
        sent.update({each.path_in_repo: each.path_or_fileobj for each in operations})
        return type("Commit", (), {"repo_url": "there"})

    monkeypatch.setattr(HfApi, "create_commit", commit)
    assert push(label_run, "me/halves", screen=QUIET) == "there"
    assert b'predict(["picture.jpg"])[0].labels' in sent["README.md"]
