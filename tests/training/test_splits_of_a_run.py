"""What a run has learned from is never tested on, and goes on being learned from, whatever is added to its folder."""

import shutil

import pytest

from densekit.console import Screen
from densekit.evaluation.evaluate import evaluate

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


@pytest.fixture
def root(make_folder):
    return make_folder({"a": 40, "b": 40})


def add_pictures(root):
    """One in every class, at the beginning: every later cut would be another."""
    for label in ("a", "b"):
        shutil.copy(root / label / "0.png", root / label / "00.png")


def test_tested_on(train_tiny, root, tmp_path):
    run = train_tiny(data=str(root), limit_per_class=None, epochs=1, lr=0.1).folder

    def names():
        given = {"screen": Screen(quiet=True), "out": tmp_path / "figures"}
        return {split: evaluate(run, split=split, **given).pictures.pictures for split in ("train", "val", "test")}

    before = names()
    assert [len(part) for part in before.values()] == [64, 8, 8]
    add_pictures(root)
    assert names() == before


def test_learned_from_after_an_interruption(train_tiny, root):
    settings = {"data": str(root), "limit_per_class": None, "lr": 0.1}

    def interrupt(row):
        raise KeyboardInterrupt

    whole = train_tiny(out="whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(out="stopped", on_epoch=interrupt, **settings)
    add_pictures(root)
    resumed = train_tiny(out="stopped", resume=True, **settings)
    assert [[row[name] for name in FIGURES] for row in resumed.history] == [
        [row[name] for name in FIGURES] for row in whole.history
    ]


def test_classes_too_small_to_split_are_told(make_folder, train_tiny, screen):
    root = str(make_folder({"many": 20, "two": 2, "one": 1}))
    train_tiny("run", data=root, limit_per_class=None, lr=0.1, epochs=1)
    text = screen.console.export_text()
    told = "no val pictures of 'one', 'two': their figures say nothing about these"
    assert told in text  # the second of two is to test on
    assert "no test pictures of 'one': " in text
    train_tiny("few", data=root, limit_per_class=1, lr=0.1, epochs=1)
    assert "no pictures to validate on are left: the last epoch will be kept" in screen.console.export_text()
