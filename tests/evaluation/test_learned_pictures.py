"""Pictures that a run learned from, where it is tested on them all the same."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from densekit.data.learned import Learned
from densekit.errors import DataError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.own_data import learned_before
from densekit.loading import load_classifier
from densekit.training.train import train


def test_pictures_that_were_learned_from_under_another_name(trained_on, colours, tmp_path, screen):
    root = shutil.copytree(colours, tmp_path / "colours")
    shutil.copy(root / "train" / "red" / "3.png", root / "test" / "red" / "copy.png")
    run, told = trained_on(data=str(root)), "among the training pictures too, byte for byte"
    evaluate(run, screen=screen)
    text = screen.console.export_text()
    assert f"1 picture is {told}" in text
    assert f"first {root / 'test/red/copy.png'} = {root / 'train/red/3.png'}" in text
    evaluate(run, split="train", screen=screen)
    evaluate(trained_on(data=str(colours)), screen=screen)
    assert told not in screen.console.export_text()


def test_a_copy_of_the_training_pictures_is_told(colour_run, colours, tmp_path, screen):
    copy = shutil.copytree(colours / "train", tmp_path / "renamed")
    for path in copy.rglob("*.png"):
        path.rename(path.with_stem(f"x{path.stem}"))
    evaluate(colour_run, copy, out=tmp_path / "out", screen=screen)
    assert "54 pictures are among the training pictures too, byte for byte" in screen.console.export_text()


def test_a_run_whose_data_has_moved(colours, tmp_path, screen):
    """Named for what it is, and evaluated as before once the run has been told."""
    root, moved, run = shutil.copytree(colours, tmp_path / "before"), tmp_path / "moved", tmp_path / "run"
    train(root, out=run, model="simple_cnn", epochs=1, device="cpu", workers=0, tensorboard=False, screen=screen)
    before = evaluate(run).metrics
    root.rename(moved)
    with pytest.raises(
        DataError, match=f"before is gone; .*densekit train NEW_PLACE --out {run} --resume updates the run"
    ):
        evaluate(run)
    evaluate(run, moved / "train", screen=screen)
    told = screen.console.export_text()
    assert "54 pictures in it are ones that the run was trained on" in told
    assert f"densekit train {moved / 'train'} --out {run} --resume updates the run" in told
    train(moved, out=run, resume=True, screen=screen)
    assert "is finished already" in screen.console.export_text()
    assert evaluate(run).metrics == before
    with pytest.raises(SettingsError, match="resume goes on with data="):  # it is where it is
        train(colours, out=run, resume=True, screen=screen)


def test_a_classifier_by_itself(colour_run, colours, tmp_path, monkeypatch):
    """It has learned from nothing that is known, and stays as it is."""
    monkeypatch.chdir(tmp_path)
    classifier = load_classifier(colour_run, device="cpu")
    found = evaluate(classifier, colours)
    assert found.classifier is classifier
    assert found.metrics == evaluate(colour_run, colours, out=tmp_path / "run").metrics
    assert found.folder == Path(f"evaluation-{colours.name}")
    assert "run" not in json.loads((found.folder / "metrics.json").read_text(encoding="utf-8"))
    with pytest.raises(DataError, match=r"no pictures of its own: name some, evaluate\(classifier, data\)"):
        evaluate(classifier)


def test_a_run_that_was_stopped_is_told(colours, tmp_path, screen):
    settings = {"model": "simple_cnn", "epochs": 3, "device": "cpu", "workers": 0, "tensorboard": False}

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(colours, out=tmp_path / "run", on_epoch=stop, **settings)
    evaluate(tmp_path / "run", screen=screen)
    told = f"training was stopped after 2 of 3 epochs: densekit train --out {tmp_path / 'run'} --resume goes on"
    assert told in screen.console.export_text(clear=False)
    train(out=tmp_path / "run", resume=True)
    screen.console.export_text()  # forgets
    evaluate(tmp_path / "run", screen=screen)
    assert "stopped" not in screen.console.export_text()


def test_what_the_weights_learned_from_is_told(colours, tmp_path, screen):
    """Another seed makes other splits of the same folder."""
    settings = {"model": "simple_cnn", "epochs": 1, "device": "cpu", "workers": 0, "tensorboard": False}
    runs = [tmp_path / name for name in ("first", "same", "other", "third")]
    train(colours / "train", out=runs[0], **settings)
    train(colours / "train", out=runs[1], weights=runs[0], screen=screen, **settings)
    evaluate(runs[1], screen=screen)
    assert "trained on" not in screen.console.export_text()

    def places(run, split):
        with (run / "splits.csv").open() as file:
            return {row["path"] for row in csv.DictReader(file) if row["split"] == split}

    train(colours / "train", out=runs[2], weights=runs[0] / "model.safetensors", seed=1, screen=screen, **settings)
    text, learned = screen.console.export_text(), places(runs[0], "train")
    for split in ("val", "test"):
        own = places(runs[2], split)
        assert f"{len(own & learned)} of the {len(own)} {split} pictures are among those that {runs[0]}" in text
    train(colours / "train", out=runs[3], weights=runs[2], seed=1, **settings)
    for run in runs[2:]:  # of the third run's weights, the weights
        evaluate(run, screen=screen)
        both = places(run, "test") & learned
        assert f"{len(both)} pictures are among what {runs[0 if run == runs[2] else 2]}" in screen.console.export_text()


def test_validation_pictures_that_were_learned_from(trained_on, colours, tmp_path, screen):
    root = shutil.copytree(colours, tmp_path / "colours")
    for colour in (root / "train").iterdir():
        (root / "val" / colour.name).mkdir(parents=True)
        shutil.copy(colour / "3.png", root / "val" / colour.name / "copy.png")
    evaluate(trained_on(data=str(root)), split="val", out=tmp_path / "out", screen=screen)
    assert "3 pictures are among the training pictures too, byte for byte" in screen.console.export_text()


def test_weights_that_tell_nothing(colour_run, tmp_path):
    (tmp_path / "settings.yaml").write_text("of: something else\n")
    assert learned_before(str(tmp_path / "model.safetensors")) == learned_before("imagenet") == Learned()
    circle = [shutil.copytree(colour_run, tmp_path / name) for name in ("one", "two")]
    for run, other in zip(circle, reversed(circle), strict=True):
        settings = run / "settings.yaml"
        settings.write_text(settings.read_text().replace("weights: null", f"weights: {other}"))
    assert len(learned_before(str(circle[0])).pictures) == 54


def test_groups_that_were_learned_from(colours, tmp_path, screen):
    """Other pictures of the same patients, in a table of their own: of those that trained, not of those held out."""

    def table(name, numbers, patient, split=""):
        pictures = [(colours / "train" / colour / f"{i}.png", colour, i) for colour in ("red", "grün") for i in numbers]
        lines = [f"{path},{colour},{patient(i)}{split}" for path, colour, i in pictures]
        header = "path,label,patient,split" if split else "path,label,patient"
        (tmp_path / name).write_text("\n".join([header, *lines]), encoding="utf-8")
        return tmp_path / name

    settings = {"model": "simple_cnn", "epochs": 1, "device": "cpu", "workers": 0, "tensorboard": False}
    first = table("first.csv", range(10), lambda i: f"p{i}")
    run = train(first, out=tmp_path / "run", val_fraction=0.2, test_fraction=0.2, **settings)
    with (run.folder / "splits.csv").open(encoding="utf-8") as file:
        splits = {row["group"]: row["split"] for row in csv.DictReader(file)}
    learned = [name for name, split in splits.items() if split == "train"]
    assert len(splits) == 10
    assert 0 < len(learned) < 10
    others = table("others.csv", range(10, 20), lambda i: f"p{i - 5}" if i < 18 else "")  # p5 to p12, and nobody's
    both = sorted(set(learned) & {f"p{i}" for i in range(5, 13)})
    counted = f"{2 * len(both)} pictures are of groups (by their names) that %s was trained on too"
    told = counted + ", which flatters the figures"
    evaluate(run, others, screen=screen)
    assert told % "the run" in screen.console.export_text(clear=True)
    evaluate(run, screen=screen)
    assert "of groups" not in screen.console.export_text(clear=True)
    held_out = table("test.csv", range(10, 18), lambda i: f"p{i - 5}", ",test")
    text = held_out.read_text(encoding="utf-8")
    more = table("train.csv", range(18, 20), lambda i: f"q{i}", ",train").read_text(encoding="utf-8").partition("\n")[2]
    held_out.write_text(f"{text}\n{more}", encoding="utf-8")
    second = train(held_out, out=tmp_path / "second", weights=run.folder, val_fraction=0, screen=screen, **settings)
    assert told % run.folder in screen.console.export_text(clear=True)
    evaluate(second, screen=screen)
    assert f"{told % run.folder} of the test pictures: '{both[0]}'" in screen.console.export_text()
