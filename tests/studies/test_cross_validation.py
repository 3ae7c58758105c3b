"""Cross-validation: every picture is tested once, by a network that was trained without it."""

import csv
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from densekit.data.datasets import open_data
from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.loading import load_classifier
from densekit.studies.cross_validation import CrossValidation, cross_validate
from densekit.training.run_folder import RunFolder

QUICK = {"model": "simple_cnn", "epochs": 3, "batch_size": 18, "optimizer": "adam", "lr": 0.01}
FIXED = {"device": "cpu", "precision": "fp32", "workers": 0, "tensorboard": False}


@pytest.fixture(scope="module")
def finished(colours, tmp_path_factory) -> CrossValidation:
    return cross_validate(colours, folds=3, out=tmp_path_factory.mktemp("cv") / "cv", **QUICK, **FIXED)


def predictions(folder) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_training_picture_is_tested_once_and_no_other(finished, colours):
    tested = [row["path"] for row in predictions(finished.folder)]
    assert sorted(tested) == sorted(str(path) for path in (colours / "train").rglob("*.png"))


def test_no_network_has_seen_what_it_is_tested_on(finished):
    for number in (1, 2, 3):
        with RunFolder(finished.folder / f"runs/fold{number}").splits.open(encoding="utf-8") as file:
            split = {row["path"]: row["split"] for row in csv.DictReader(file)}
        tested = [row["path"] for row in predictions(finished.folder) if row["fold"] == str(number)]
        assert len(tested) == list(split.values()).count("test")
        assert all(split[path.partition("colours0/")[2]] == "test" for path in tested)


def test_figures_are_those_of_all_pictures(finished):
    """Computed from what each fold's classifier answers about the pictures, file by file."""
    rows = predictions(finished.folder)
    for number in (1, 2, 3):
        own = [row for row in rows if row["fold"] == str(number)]
        answers = load_classifier(finished.folder / f"runs/fold{number}").predict([row["path"] for row in own])
        assert [row["answer"] for row in own] == [answer.label for answer in answers]
        share = np.mean([row["answer"] == row["label"] for row in own])
        assert finished.folds[number - 1].metrics.accuracy == pytest.approx(share)
    written = json.loads((finished.folder / "metrics.json").read_text())
    accuracy = np.mean([row["answer"] == row["label"] for row in rows])
    assert written["accuracy"] == pytest.approx(accuracy) == finished.metrics.accuracy
    assert written["pictures"] == len(rows) == 60
    assert written["folds"] == [fold.metrics.accuracy for fold in finished.folds]
    assert finished.spread.mean == pytest.approx(np.mean(written["folds"]))
    assert finished.spread.deviation == pytest.approx(np.std(written["folds"], ddof=1))


def test_it_goes_on_where_it_stopped(finished, colours, tmp_path, training_passes):
    stop_in_the_second_fold(colours, tmp_path / "cv", training_passes)
    assert not (tmp_path / "cv/metrics.json").exists()
    first = (tmp_path / "cv/runs/fold1/model.safetensors").stat().st_mtime_ns
    resumed = cross_validate(out=tmp_path / "cv", resume=True)
    assert (tmp_path / "cv/runs/fold1/model.safetensors").stat().st_mtime_ns == first
    assert resumed.metrics.to_dict() == finished.metrics.to_dict()


def test_groups_stay_whole_and_are_counted(colours, tmp_path):
    paths = sorted((colours / "train").rglob("*.png"))
    table = tmp_path / "table.csv"
    lines = [f"{path},{path.parent.name},{path.parent.name}-{int(path.stem) // 4}" for path in paths]
    table.write_text("\n".join(["path,label,patient", *lines]), encoding="utf-8")
    found = cross_validate(table, folds=2, out=tmp_path / "cv", **{**QUICK, "epochs": 1}, **FIXED)
    assert found.metrics.groups == 15
    tested = [{line.rpartition(",")[2] for line in lines if line.startswith(tuple(names))} for names in _by_fold(found)]
    assert not tested[0] & tested[1]


def _by_fold(found: CrossValidation) -> list[list[str]]:
    rows = predictions(found.folder)
    return [[f"{row['path']}," for row in rows if row["fold"] == number] for number in ("1", "2")]


def test_several_labels(halves, tmp_path):
    found = cross_validate(halves, folds=2, out=tmp_path / "cv", **QUICK, **FIXED)
    train = open_data(halves, val_fraction=0).train
    assert found.metrics.pictures == len(train) == 120
    assert [row.pictures for row in found.metrics.classes] == train.counts(3).tolist()
    assert (found.folder / "labels.png").exists()
    assert found.spread.mean == pytest.approx(np.mean([fold.metrics.mean_average_precision for fold in found.folds]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 1}, "folds=1: give 2 or more"),
        ({"fold": "1/3"}, "cross-validation tests on every part"),
        ({"thresholds": "f1"}, "every fold has its own"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(colours, tmp_path, values, message):
    with pytest.raises(SettingsError, match=message):
        cross_validate(colours, out=tmp_path / "cv", **QUICK, **FIXED, **values)
    assert not (tmp_path / "cv").exists()


def stop_in_the_second_fold(data, out, training_passes, **settings):
    def stop():
        raise KeyboardInterrupt

    training_passes.at = (training_passes.count + 8, stop)  # of each fold, three epochs of two steps
    with pytest.raises(KeyboardInterrupt, match=r"densekit cross-validate --out .* --resume"):
        cross_validate(data, folds=3, out=out, **{**QUICK, **FIXED, **settings})


def test_folds_of_other_pictures_are_refused(colours, tmp_path, training_passes):
    """After one is deleted the folds would be others: some pictures tested twice, some never."""
    data = shutil.copytree(colours, tmp_path / "data")
    stop_in_the_second_fold(data, tmp_path / "cv", training_passes)
    (data / "train" / "red" / "3.png").unlink()
    with pytest.raises(DataError, match=r"are not those that .* began with, so that the folds would be others"):
        cross_validate(out=tmp_path / "cv", resume=True)


def test_a_fold_that_was_stopped_and_looked_at_is_not_finished(colours, tmp_path, training_passes):
    settings = {"early_stopping": 3}  # with which the number of epochs does not tell
    whole = cross_validate(colours, folds=3, out=tmp_path / "whole", **QUICK, **FIXED, **settings)
    stop_in_the_second_fold(colours, tmp_path / "cv", training_passes, **settings)
    evaluate(tmp_path / "cv" / "runs" / "fold1")
    shutil.rmtree(tmp_path / "cv" / "runs" / "fold1" / "checkpoints")  # to make room: it stays as it is
    resumed = cross_validate(out=tmp_path / "cv", resume=True)
    assert resumed.metrics.to_dict() == whole.metrics.to_dict()


def test_names_that_are_no_utf_8(paint, tmp_path):
    for name in ("red", "grün"):
        paint(tmp_path / "data" / name, name, 6)
    (tmp_path / "data" / "red" / "0.png").rename(tmp_path / "data" / "red" / "p\udcff.png")
    found = cross_validate(tmp_path / "data", folds=2, out=tmp_path / "cv", **{**QUICK, "epochs": 1}, **FIXED)
    text = (found.folder / "predictions.csv").read_text(encoding="utf-8", errors="surrogateescape")
    assert "p\udcff.png" in text
    assert found.metrics.pictures == 12


def test_a_limit_of_test_pictures_is_for_other_tests(colours, tmp_path):
    found = cross_validate(
        colours, folds=2, out=tmp_path / "cv", limit_test_per_class=1, **{**QUICK, "epochs": 1}, **FIXED
    )
    assert found.metrics.pictures == 60


def test_no_data_and_no_folder(tmp_path):
    with pytest.raises(SettingsError, match="no pictures named"):
        cross_validate()
    with pytest.raises(SettingsError, match="--out FOLDER --resume"):
        cross_validate(resume=True)
    (tmp_path / "study.yaml").write_text("settings: {}\nvariants: {}\n")
    with pytest.raises(CheckpointError, match="not the folder of a cross-validation"):
        cross_validate(out=tmp_path, resume=True)


def test_more_folds_than_pictures(paint, tmp_path):
    for name in ("red", "grün"):
        paint(tmp_path / "data" / name, name, 3)
    with pytest.raises(DataError, match="too few pictures for 9 folds"):
        cross_validate(tmp_path / "data", folds=9, out=tmp_path / "cv", **QUICK, **FIXED)


def test_folds_are_cut_anew_for_each_seed(make_colours_names):
    one, same, other = (make_colours_names(seed) for seed in (0, 0, 1))
    assert one == same != other
    assert all(not set(a) & set(b) for a, b in pairwise(one))


@pytest.fixture
def make_colours_names(colours):
    def names(seed):
        folds = [open_data(colours, fold=f"{number}/2", seed=seed).test for number in (1, 2)]
        return [[fold.name(i) for i in range(len(fold))] for fold in folds]

    return names
