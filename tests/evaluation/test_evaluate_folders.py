"""Where figures are written, and whose they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from densekit.console import Screen
from densekit.errors import SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.results import read_metrics
from densekit.loading import fingerprint, load_classifier

FILES = {"metrics.json", "predictions.csv", "confusion.csv", "confusion.png"}


def test_writes_into_the_run_folder_unless_told(trained_on, colours, tmp_path):
    run = trained_on(data=str(colours))
    before = {path.name for path in run.iterdir()}
    assert evaluate(run).folder == run
    assert {path.name for path in run.iterdir()} - before == FILES
    assert evaluate(run, out=tmp_path / "new" / "deeper").folder == tmp_path / "new" / "deeper"
    assert {path.name for path in (tmp_path / "new" / "deeper").iterdir()} == FILES


def test_other_figures_never_take_the_place_of_the_test_figures(trained_on, colours, paint, tmp_path):
    run = trained_on(data=str(colours))
    own = evaluate(run)
    for name in ("val", "test"):
        paint(tmp_path / "other" / name / "red", "red", 3)
        paint(tmp_path / "more" / name / "red", "red", 4)
    folders = {}
    for data in ("other/test", "more/test", "other/val", "other/test"):
        folders[data] = evaluate(run, tmp_path / data).folder.name
    assert folders == {
        "other/test": "evaluation-test",
        "more/test": "evaluation-test-2",
        "other/val": "evaluation-val",
    }
    assert evaluate(run, split="val").folder.name == "evaluation-val-2"
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["pictures"] == own.metrics.pictures == 25


def test_folders_of_one_name_have_figures_of_their_own(trained_on, colours, flat, tmp_path, monkeypatch):
    run = trained_on(data=str(colours))
    for place in ("one", "other"):
        shutil.copytree(flat, tmp_path / place / "pictures")
        monkeypatch.chdir(tmp_path / place)
        evaluate(run, "pictures", screen=Screen(quiet=True))
    assert {path.name for path in run.glob("evaluation-*")} == {"evaluation-pictures", "evaluation-pictures-2"}


def test_the_test_figures_of_a_run_are_those_of_its_test_split(trained_on, colours, tmp_path):
    run, other = trained_on(data=str(colours)), tmp_path / "other"
    with pytest.raises(SettingsError, match="is for the run's own test figures: choose another --out"):
        evaluate(run, split="train", out=run)
    evaluate(run, split="train", out=other)
    shutil.copytree(run, moved := tmp_path / "moved")
    assert evaluate(moved, split="train", out=other).folder == other  # it is the same classifier
    replace(load_classifier(moved), temperature=2.0).save(moved)
    evaluate(run, split="train", out=other)
    with pytest.raises(SettingsError, match=r"has the figures of another run \(.*\): choose another --out"):
        evaluate(moved, split="train", out=other)


def test_classifiers_by_themselves_have_figures_of_their_own(colour_run, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = load_classifier(colour_run)
    folders = [evaluate(one, colours).folder for one in (classifier, replace(classifier, temperature=2.0))]
    assert [folder.name for folder in folders] == [f"evaluation-{colours.name}", f"evaluation-{colours.name}-2"]
    assert evaluate(classifier, colours, out="here").folder == Path("here")
    assert evaluate(classifier, colours, out="here").folder == Path("here")
    evaluate(run := shutil.copytree(colour_run, "run"))
    before = (Path(run) / "metrics.json").read_bytes()
    with pytest.raises(SettingsError, match="run is for the figures of a run: choose another --out"):
        evaluate(classifier, colours, out=run)
    assert (Path(run) / "metrics.json").read_bytes() == before


def test_figures_of_an_earlier_state_are_not_those_of_the_run(trained_on, colours, screen):
    run = trained_on(data=str(colours))
    evaluate(run)
    assert read_metrics(run, screen) is not None
    assert not screen.console.export_text()
    replace(load_classifier(run), temperature=2.0).save(run)
    assert read_metrics(run, screen) is None
    assert f"{run / 'metrics.json'} is not of the classifier that is there now" in screen.console.export_text()
    evaluate(run)
    assert read_metrics(run, screen) is not None


def test_out_of_other_pictures_is_refused(trained_on, colours, flat):
    run = trained_on(data=str(colours))
    evaluate(run)
    before = (run / "metrics.json").read_bytes()
    with pytest.raises(SettingsError, match=r"has the figures of other pictures \(.*colours.*\): choose another --out"):
        evaluate(run, flat, out=run)
    assert (run / "metrics.json").read_bytes() == before
    assert evaluate(run, out=run).folder == run  # its own again


def test_only_the_files_of_a_classifier_are_its_fingerprint(trained_on, colours):
    run = trained_on(data=str(colours))
    before = fingerprint(run)
    (run / "model_notes.txt").write_text("mine")
    assert fingerprint(run) == before
    for name in ("model.json", "model.safetensors"):
        path = run / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert fingerprint(run) != before
        path.write_bytes(content)
