import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.pictures import read_picture
from densekit.engine.choose_ops import choose_ops
from densekit.errors import CheckpointError, DataError, PictureError, SettingsError, UnknownNameError
from densekit.evaluation.evaluate import evaluate
from densekit.loading import fingerprint, load_classifier
from densekit.models.catalogue import create_model

FILES = {"metrics.json", "predictions.csv", "confusion.csv", "confusion.png"}
CONFUSION = ((8, 0, 0), (0, 8, 1), (0, 0, 8))  # one picture of test/grün is red


def names(evaluation) -> set[str]:
    return {str(path) for path in evaluation.pictures.pictures}


def test_test_split_only(colour_run, colours, tmp_path):
    evaluation = evaluate(colour_run, out=tmp_path)
    assert names(evaluation) == {str(path) for path in (colours / "test").rglob("*.png")}
    metrics = evaluation.metrics
    assert (metrics.split, metrics.pictures, metrics.accuracy) == ("test", 25, 24 / 25)
    assert metrics.confusion == CONFUSION
    assert [c.name for c in metrics.classes] == ["deep blue", "grün", "red"]


def test_dense_blocks_are_tested_fused_where_that_is_faster(colour_run, colours, tmp_path):
    """The figures are the stock network's, from a quicker one."""
    network = create_model("densenet12_wide_cifar", num_classes=3)
    calm = load_classifier(colour_run, device="cpu")
    Classifier(network, calm.classes, calm.preprocessing).save(tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", colours, device="cpu")
    fused = evaluation.classifier.network.features.denseblock1
    expected = {"cpu"} if choose_ops("auto", "cpu").name == "cpu" else {None}  # without a compiler nothing is
    assert {getattr(fused, "ran", None)} == expected
    pictures = [read_picture(evaluation.pictures.pictures[place]) for place in evaluation.outcomes.index.tolist()]
    pixels = torch.stack([calm.preprocessing(picture) for picture in pictures])
    with torch.no_grad():
        torch.testing.assert_close(evaluation.outcomes.logits, network.eval()(pixels), rtol=1e-4, atol=1e-4)


def test_in_bfloat16(colour_run, tmp_path):
    half, single = (
        evaluate(colour_run, out=tmp_path / name, device="cpu", precision=name) for name in ("bf16", "fp32")
    )
    written = json.loads((tmp_path / "bf16" / "metrics.json").read_text(encoding="utf-8"))
    assert written["computed_in"] == "bf16"
    preprocessing = half.classifier.preprocessing
    files = [half.pictures.pictures[place] for place in half.outcomes.index.tolist()]
    pixels = torch.stack([preprocessing(read_picture(file)) for file in files])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = half.classifier.network.eval()(pixels).float()
    assert torch.equal(half.outcomes.logits, logits / half.classifier.temperature)
    assert not torch.equal(half.outcomes.logits, single.outcomes.logits)


def test_a_class_more_than_the_run_knows(trained_on, colours, paint, tmp_path):
    """Labels are places among the classes: they would all be others."""
    shutil.copytree(colours, tmp_path / "colours")
    paint(tmp_path / "colours" / "train" / "blue", "red", 3)
    with pytest.raises(DataError, match="has other classes than the run was trained with"):
        evaluate(trained_on(data=str(tmp_path / "colours")))


def test_equal_on_repeat(colour_run, tmp_path):
    first, second = (evaluate(colour_run, out=tmp_path / name, batch_size=n) for name, n in (("a", 25), ("b", 25)))
    assert first.metrics == second.metrics
    for name in FILES:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_splits_share_no_picture_and_leave_none_out(colour_run, colours, tmp_path):
    evaluations = {split: evaluate(colour_run, split=split, out=tmp_path) for split in ("train", "val", "test")}
    assert {split: e.metrics.pictures for split, e in evaluations.items()} == {"train": 54, "val": 6, "test": 25}
    assert {split: e.metrics.split for split, e in evaluations.items()} == {s: s for s in evaluations}
    assert set.union(*map(names, evaluations.values())) == {str(path) for path in colours.rglob("*.png")}
    with pytest.raises(UnknownNameError, match="unknown split 'tset'; did you mean: test"):
        evaluate(colour_run, split="tset")


def test_training_folder_without_splits_gives_the_held_out_pictures(trained_on, flat, tmp_path):
    run = trained_on(data=str(flat), test_fraction=0.2, seed=3)
    own = evaluate(run, out=tmp_path)
    assert (own.metrics.split, own.metrics.pictures) == ("test", 6)  # a fifth of 10 in each of 3 classes
    for spelling in (flat, f"{flat}/", os.path.relpath(flat)):
        assert names(evaluate(run, spelling, out=tmp_path)) == names(own), spelling
    assert not names(own) & names(evaluate(run, split="train", out=tmp_path))
    other_seed = trained_on(data=str(flat), test_fraction=0.2, seed=4)
    assert names(evaluate(other_seed, out=tmp_path)) != names(own)


def test_limits_of_the_training_hold(trained_on, colours, tmp_path):
    run = trained_on(data=str(colours), limit_test_per_class=2, limit_per_class=5)
    assert evaluate(run, out=tmp_path).metrics.pictures == 6
    assert evaluate(run, split="train", out=tmp_path).metrics.pictures == 12  # 5 a class, one of them to validate


def test_other_folder_without_splits_is_used_whole(colour_run, flat, tmp_path):
    evaluation = evaluate(colour_run, flat, out=tmp_path)
    assert (evaluation.metrics.split, evaluation.metrics.pictures, evaluation.metrics.accuracy) == ("all", 30, 1.0)


def test_other_folder_with_a_test_split(colour_run, paint, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("deep blue", "grün", "red"):
            paint(tmp_path / "other" / split / name, name, count)
    evaluation = evaluate(colour_run, tmp_path / "other", out=tmp_path)
    assert (evaluation.metrics.split, evaluation.metrics.pictures) == ("test", 6)
    assert all("/test/" in Path(name).as_posix() for name in names(evaluation))


def test_other_data_with_some_of_the_classes(colour_run, paint, tmp_path):
    paint(tmp_path / "some" / "red", "red", 3)
    paint(tmp_path / "some" / "deep blue", "grün", 2)  # all of them wrong
    metrics = evaluate(colour_run, tmp_path / "some", out=tmp_path).metrics
    assert metrics.confusion == ((0, 2, 0), (0, 0, 0), (0, 0, 3))
    assert metrics.classes[1].recall is None
    assert metrics.balanced_accuracy == 0.5  # of the two classes that occur


def test_table_of_other_pictures(colour_run, paint, tmp_path):
    paint(tmp_path, "red", 3)
    (tmp_path / "list.csv").write_text("path,label\n0.png,red\n1.png,red\n2.png,grün\n", encoding="utf-8")
    metrics = evaluate(colour_run, tmp_path / "list.csv", out=tmp_path).metrics
    assert (metrics.split, metrics.pictures, metrics.accuracy) == ("all", 3, 2 / 3)


def test_travelled_classifier_needs_data(travelled, flat):
    with pytest.raises(DataError, match="does not say what it was trained with: name the pictures, evaluate RUN DATA"):
        evaluate(travelled)
    assert evaluate(travelled, flat).metrics.accuracy == 1.0


def test_metrics_json_holds_what_was_measured(colour_run, colours, tmp_path):
    evaluation = evaluate(colour_run, out=tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    about = {name: written.pop(name) for name in ("data", "model", "computed_in", "run", "classifier")}
    assert about.pop("run") == str(colour_run.resolve())
    assert about.pop("classifier") == fingerprint(colour_run)
    assert about == {"data": str(colours.resolve()), "model": "simple_cnn", "computed_in": "fp32"}
    assert written == json.loads(json.dumps(evaluation.metrics.to_dict()))
    assert written["split"] == "test"

    # the same figures by another way: file by file through the classifier
    files = sorted((colours / "test").rglob("*.png"))
    answers = load_classifier(colour_run).predict(files, batch_size=7)
    right = [answer.label == Path(answer.path).parent.name for answer in answers]
    assert written["accuracy"] == sum(right) / len(right)
    low, high = written["accuracy_interval_95"]
    assert low < written["accuracy"] < high


def test_confusion_csv_parses_back(colour_run, tmp_path):
    evaluate(colour_run, out=tmp_path)
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == ["deep blue", "grün", "red"]
    assert tuple(tuple(map(int, row[1:])) for row in rows) == CONFUSION


def test_damaged_picture_is_left_out_and_named(colour_run, flat, tmp_path, screen):
    damaged = flat / "red" / "300.png"
    damaged.write_bytes(damaged.read_bytes()[:300])  # the header is whole
    evaluation = evaluate(colour_run, flat, out=tmp_path, screen=screen)
    assert evaluation.metrics.pictures == 29
    assert f"1 picture left out, first {damaged}: damaged" in screen.console.export_text()
    with pytest.raises(PictureError, match=r"300\.png: damaged"):
        evaluate(colour_run, flat, out=tmp_path, strict=True, screen=screen)


def test_nothing_readable(colour_run, paint, tmp_path):
    for file in paint(tmp_path / "red", "red", 2).iterdir():
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="none of the 2 all pictures can be read"):
        evaluate(colour_run, tmp_path, out=tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda root, paint: root / "nowhere", "no such folder or table", id="missing"),
        pytest.param(
            lambda root, paint: paint(root / "x" / "Red", "red", 1).parent,
            "the classifier has no class 'Red'; it knows 'deep blue', 'grün', 'red'",
            id="unknown_class",
        ),
        pytest.param(
            lambda root, paint: paint(root / "x" / "train" / "red", "red", 1).parents[1],
            "has train or val pictures but no test split: name a folder",
            id="train_only",
        ),
    ],
)
def test_unusable_data(colour_run, paint, tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        evaluate(colour_run, make(tmp_path, paint), out=tmp_path)


def test_split_is_only_for_the_own_data(colour_run, flat, tmp_path):
    with pytest.raises(SettingsError, match="split=val is for the run's own data"):
        evaluate(colour_run, flat, split="val", out=tmp_path)


@pytest.mark.parametrize("text", ["- a list", "data: [unclosed", "data: digits", ""], ids=lambda text: text or "empty")
def test_damaged_settings(travelled, text):
    (travelled / "settings.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"settings\.yaml does not hold the settings of a run"):
        evaluate(travelled)


def test_run_whose_data_is_gone(trained_on, tmp_path):
    with pytest.raises(DataError, match="moved away: no such folder"):
        evaluate(trained_on(data=str(tmp_path / "moved away")), screen=Screen(quiet=True))


def test_data_without_a_test_split(trained_on, flat):
    with pytest.raises(DataError, match="has no test pictures: name others, evaluate RUN DATA"):
        evaluate(trained_on(data=str(flat), test_fraction=0.0))


def test_a_strict_run_is_tested_strictly(trained_on, colours, tmp_path):
    root = shutil.copytree(colours, tmp_path / "colours")
    run = trained_on(data=str(root), strict=True)
    (root / "test" / "red" / "100.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"red/100\.png: the file is empty"):
        evaluate(run, out=tmp_path / "out")
