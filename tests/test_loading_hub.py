"""A classifier of the Hugging Face Hub is named wherever a run is."""

import pytest

from densekit.errors import CheckpointError, DataError
from densekit.evaluation.evaluate import evaluate
from densekit.export.export import export_run
from densekit.loading import load_classifier
from densekit.report.write import write_report

NAME = "hf-hub:me/colours"


@pytest.fixture
def uploaded(colour_run, hub):
    names = ("model.json", "model.safetensors", "history.csv")
    return hub("me/colours", {name: (colour_run / name).read_bytes() for name in names})


def test_it_answers_as_the_run(uploaded, colour_run, colours):
    files = colours / "test/red"
    assert load_classifier(NAME, device="cpu").predict(files) == load_classifier(colour_run, device="cpu").predict(
        files
    )
    assert load_classifier(f"{NAME}@{uploaded}").classes == ("deep blue", "grün", "red")


def test_results_go_into_a_folder_of_its_name(uploaded, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not say what it was trained with: name the pictures"):
        evaluate(NAME)
    assert evaluate(NAME, colours).metrics.accuracy == 24 / 25
    assert (tmp_path / f"runs/me--colours/evaluation-{colours.name}/metrics.json").exists()
    assert write_report(NAME, colours).exists()
    export = export_run(NAME, to="torch", data=colours)
    assert export.folder.resolve() == tmp_path / "runs/me--colours/exports/torch"


def test_an_export_that_runs_code_is_not_taken_from_the_hub(colour_run, colours, hub, tmp_path):
    export = export_run(colour_run, to="torch", data=colours, out=tmp_path / "export")
    hub("me/export", {path.name: path.read_bytes() for path in export.folder.iterdir()})
    for work in (load_classifier, evaluate, write_report):
        with pytest.raises(CheckpointError, match=r"opening model\.pt2 can run code, so it is not taken from the hub"):
            work("hf-hub:me/export")
