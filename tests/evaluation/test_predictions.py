"""predictions.csv, a line for each picture that was tested."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.data.picture_set import PictureSet
from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.results import write_predictions
from densekit.loading import load_classifier


def test_every_picture_is_in_predictions_csv(colour_run, tmp_path):
    evaluation = evaluate(colour_run, out=tmp_path)
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == set(map(str, evaluation.pictures.pictures))
    answers = {answer.path: answer for answer in load_classifier(colour_run).predict([row["path"] for row in rows])}
    for row in rows:
        answer, label = answers[row["path"]], Path(row["path"]).parent.name
        assert (row["label"], row["answer"]) == (label, answer.label)
        assert row["correct"] == str(int(label == answer.label))
        for name, probability in answer.top:
            assert float(row[f"p({name})"]) == pytest.approx(probability, abs=2e-6)
    assert [row["path"] for row in rows if row["correct"] == "0"] == [
        path for path in set(map(str, evaluation.pictures.pictures)) if path.endswith("200.png")
    ]


def test_thousands_of_probabilities_are_not_written(tmp_path):
    logits = torch.eye(101)[:3]
    outcomes = Outcomes(logits, torch.tensor([0, 1, 1]), torch.arange(3))
    pictures = PictureSet(np.zeros((3, 2, 2), np.uint8), np.array([0, 1, 1]), "test")
    write_predictions(tmp_path / "p.csv", outcomes, pictures, [str(number) for number in range(101)])
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines == ["path,label,answer,correct", "test/0,0,0,1", "test/1,1,1,1", "test/2,1,2,0"]
