import csv
import io
import shutil

import pytest

from densekit.data import memory, picture_set
from densekit.errors import DataError, PictureError, TrainingError
from densekit.training.interruption import Interruption
from densekit.training.loop import finish_epoch, train_epoch
from densekit.training.train import train


@pytest.fixture
def damaged(make_folder):
    """Ten pictures a class, of which one to train on and one to validate on are cut short behind their header."""
    root = make_folder({"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 3}, size=(16, 16))
    for name in ("train/a/3.png", "val/b/1.png"):
        (root / name).write_bytes((root / name).read_bytes()[:80])
    return root


@pytest.mark.parametrize("memory_gib", [0.0, 1.0], ids=["read_while_training", "decoded_before"])
@pytest.mark.parametrize("normalisation", [{}, {"mean": (0.5,), "std": (0.25,)}], ids=["measured", "given"])
def test_damaged_pictures_are_named_and_left_out(memory_gib, normalisation, damaged, train_tiny, screen):
    run = train_tiny(data=str(damaged), limit_per_class=None, memory_gib=memory_gib, lr=0.1, **normalisation)
    with (run.folder / "skipped.csv").open() as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    names = {str(damaged / "train/a/3.png"), str(damaged / "val/b/1.png")}
    assert set(skipped) == names
    assert all("damaged or cut short" in reason for reason in skipped.values())
    text = screen.console.export_text()
    assert all(text.count(f"{name} is left out") == 1 or text.count(f"first {name}") == 1 for name in names)
    assert "2 files were left out" in text
    assert len(run.history) == 2
    assert {round(row["train_accuracy"] * 19, 6) % 1 for row in run.history} == {0.0}
    assert {round(row["val_accuracy"] * 5, 6) % 1 for row in run.history} == {0.0}


def test_damaged_pictures_do_not_tell_whether_a_set_fits_into_memory(damaged, train_tiny, tmp_path):
    """Else a run that goes on where there is less memory would be another run."""
    settings = {"data": str(damaged), "limit_per_class": None, "lr": 0.1, "batch_size": 4, "class_balance": "loss"}
    whole = [train_tiny(out=f"{gib}", memory_gib=gib, **settings).history for gib in (0.0, 1.0)]

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tiny(out="resumed", memory_gib=1.0, on_epoch=stop, **settings)
    whole.append(train(out=tmp_path / "resumed", resume=True, memory_gib=0.0).history)
    figures = [[(row["train_loss"], row["train_accuracy"], row["val_loss"]) for row in rows] for rows in whole]
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.parametrize(
    ("room", "read_again"),
    [
        (26, set()),
        (25, {"val/b/0.png"}),
        (20, {"val/b/0.png"}),
        (19, {"train/a/0.png"}),
        (5, {"train/a/0.png", "val/b/0.png"}),
    ],
    ids=["both_fit", "not_quite", "training_fits", "validation_fits", "neither"],
)
def test_training_and_validation_pictures_share_the_memory(make_folder, train_tiny, room, read_again):
    """What is in memory does not notice that a file is damaged meanwhile."""
    root = make_folder({"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 3}, size=(16, 16))

    def damage(row):
        for name in ("train/a/0.png", "val/b/0.png"):
            (root / name).write_bytes(b"")

    settings = {"limit_per_class": None, "memory_gib": room * 16 * 16 / 2**30, "lr": 0.1, "on_epoch": damage}
    run = train_tiny(data=str(root), **settings)
    skipped = run.folder / "skipped.csv"
    with skipped.open() if skipped.exists() else io.StringIO() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {str(root / name) for name in read_again}


@pytest.mark.parametrize("memory_gib", [0.0, 1.0], ids=["read_while_training", "decoded_before"])
def test_strict_makes_them_an_error(memory_gib, damaged, train_tiny):
    with pytest.raises(PictureError, match=r"train/a/3\.png: damaged or cut short"):
        train_tiny(data=str(damaged), limit_per_class=None, memory_gib=memory_gib, strict=True, lr=0.1)


def test_a_name_with_a_colon_is_not_cut(make_job, make_folder):
    root = make_folder({"a: b/train/a": 4, "a: b/train/b": 4, "a: b/val/a": 2, "a: b/val/b": 2}) / "a: b"
    job = make_job(data=str(root), limit_per_class=None, memory_gib=0.0, batch_size=4, lr=0.1)
    lost = root / "val" / "b" / "1.png"
    lost.unlink()
    train_epoch(job, Interruption())
    finish_epoch(job)
    assert job.state.progress.unreadable == {str(lost): "no such file"}


@pytest.mark.parametrize("memory_gib", [0.0, 1.0], ids=["read_while_training", "decoded_before"])
def test_no_validation_picture_that_can_be_read_is_told(memory_gib, make_folder, train_tiny):
    root = make_folder({"train/a": 8, "train/b": 8, "val/a": 1, "val/b": 1}, size=(16, 16))
    for name in ("a", "b"):
        (path := root / "val" / name / "0.png").write_bytes(path.read_bytes()[:80])
    with pytest.raises((DataError, TrainingError), match=r"validation pictures? can be read.*val/a/0\.png: damaged"):
        train_tiny(data=str(root), limit_per_class=None, memory_gib=memory_gib, lr=0.1)


def test_an_epoch_without_pictures_does_not_count(make_folder, train_tiny, tmp_path):
    """A disk that is gone: when it is back, the run goes on."""
    root = make_folder({"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2}, size=(16, 16))
    elsewhere = tmp_path / "elsewhere"
    settings = {"data": str(root), "limit_per_class": None, "memory_gib": 0.0, "lr": 0.1, "epochs": 2}
    lose = lambda row: row["epoch"] == 1 and shutil.move(root / "train", elsewhere)  # noqa: E731
    with pytest.raises(TrainingError, match=r"no picture could be used in epoch 2: .*: no such file; when they"):
        train_tiny(**settings, out=tmp_path / "run", on_epoch=lose)
    shutil.move(elsewhere, root / "train")
    assert [row["epoch"] for row in train(out=tmp_path / "run", resume=True).history] == [1, 2]


def test_pictures_that_vanish_while_training(make_job, make_folder, screen):
    """A step goes on with the pictures it has; one that has fewer than two is left out."""
    root = make_folder({"train/a": 10, "train/b": 10, "val/a": 1, "val/b": 1})
    job = make_job(data=str(root), limit_per_class=None, memory_gib=0.0, batch_size=4, lr=0.1)
    order = job.batches.order()
    lost = [job.loader.dataset.pictures.name(order[i]) for i in (0, 1, 2, 3, 4, 5, 6, 8)]
    for name in lost:
        (root / name).unlink()
    train_epoch(job, Interruption())
    progress = job.state.progress
    assert set(progress.unreadable) == {str(root / name) for name in lost}
    assert set(progress.unreadable.values()) == {"no such file"}
    assert (progress.step, progress.pictures) == (5, 0 + 0 + 3 + 4 + 4)  # the second step had one left
    assert screen.console.export_text().count("is left out: no such file") == len(lost)


def test_pictures_that_fit_into_memory_are_read_once(make_folder, train_tiny, monkeypatch):
    """Photographs take long to decode, so their colours are measured on what is kept to train on."""
    reads, read = [], memory.read_picture
    for module in (memory, picture_set):
        monkeypatch.setattr(module, "read_picture", lambda path: reads.append(path) or read(path))
    root = make_folder({"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2}, size=(16, 16))
    run = train_tiny(data=str(root), limit_per_class=None)
    assert sorted(reads) == sorted(root.rglob("*.png"))
    before = run.settings.mean
    assert train_tiny(out="disk", data=str(root), limit_per_class=None, memory_gib=0.0).settings.mean == before
