import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densekit.console import Screen
from densekit.training.curves import draw_curves
from densekit.training.train import train


def test_a_line_for_each_epoch_tells_what_matters(train_tiny, screen):
    run = train_tiny(epochs=2)
    lines = screen.console.export_text().splitlines()
    for row in run.history:
        (line,) = (line for line in lines if line.startswith(f"epoch {row['epoch']}/2 "))
        assert f"train loss {row['train_loss']:.4f} acc {row['train_accuracy']:6.2%}" in line
        assert f"val loss {row['val_loss']:.4f} acc {row['val_accuracy']:6.2%}" in line
        assert f"  {row['seconds']:.1f} s  {row['pictures_per_s']:.0f} pictures/s  " in line
        assert line.endswith(" left")
    text = "\n".join(lines)
    assert "on 50 pictures of 10 classes (10 to validate), cpu fp32" in text
    assert f"kept epoch {run.best_epoch}: validation accuracy" in text
    assert f"densekit evaluate {run.folder}" in text


def test_without_a_bar_steps_are_told_now_and_then(train_tiny, screen):
    train_tiny(epochs=1, log_every=2)
    steps = [line for line in screen.console.export_text().splitlines() if line.startswith("epoch 1/1  step")]
    assert len(steps) == 1, "of four steps the second is told, and the fourth is the epoch's own line"
    assert steps[0].startswith("epoch 1/1  step 2/4  loss ")
    assert "s left in this epoch" in steps[0]


def test_on_a_terminal_there_is_a_bar_instead(tiny, tmp_path):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    train(out=tmp_path / "run", screen=Screen(console=terminal), **{**tiny, "epochs": 1, "log_every": 1})
    shown = terminal.file.getvalue()
    assert "━" in shown
    assert "4/4" in shown
    assert "step 2/4" not in shown


def test_quiet_is_quiet(tiny, tmp_path):
    console = Console(file=io.StringIO(), width=120)
    train(out=tmp_path / "run", screen=Screen(quiet=True, console=console), **{**tiny, "epochs": 1})
    assert console.file.getvalue() == ""


def test_tensorboard_gets_every_figure(train_tiny):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = train_tiny(epochs=2, tensorboard=True)
    (file,) = (run.folder / "tensorboard").iterdir()
    found = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    assert set(found) == {
        "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds", "pictures/per_s",
    }  # fmt: skip
    for tag, name in (("train/loss", "train_loss"), ("val/accuracy", "val_accuracy")):
        assert [step for step, _ in found[tag]] == [1, 2]
        np.testing.assert_allclose([value for _, value in found[tag]], [row[name] for row in run.history], rtol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "val"), [(1, True), (3, False), (40, True)], ids=["one_point", "no_validation", "many_points"]
)
def test_curves_are_drawn(epochs, val, tmp_path):
    history = [
        {
            "epoch": i + 1,
            "train_loss": 2 / (i + 1),
            "train_accuracy": i / epochs,
            "val_loss": 2.5 / (i + 1) if val else None,
            "val_accuracy": 0.9 * i / epochs if val else None,
        }
        for i in range(epochs)
    ]
    draw_curves(tmp_path / "curves.png", history, best_epoch=1)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue, orange = ((pixels == colour).all(1).any() for colour in ((0x5B, 0x7F, 0xB5), (0xD1, 0x60, 0x3D)))
    assert (blue, orange) == (True, val)


def test_the_time_that_is_left_is_that_of_an_epoch_on_average(make_job, screen, monkeypatch):
    """With its validation, which is no part of the seconds that are told."""
    job, clock = make_job(epochs=4), iter([100.0, 105.0, 108.0])
    monkeypatch.setattr("densekit.training.reporter.time.monotonic", lambda: next(clock))
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": None, "pictures_per_s": 9.0, "seconds": 2.0}
    job.reporter.begin()
    job.reporter.report_epoch({**row, "epoch": 1})
    job.reporter.report_epoch({**row, "epoch": 2})
    text = screen.console.export_text()
    assert "1/4  train loss 1.0000 acc 50.00%  2.0 s  9 pictures/s  15 s left" in text
    assert "9 pictures/s  8 s left" in text


def test_steps_are_told_as_often_where_results_are_read_less_often(make_job, screen):
    """As on a GPU, every tenth step: of every 25 steps, the next one that is read is told."""
    job = make_job(log_every=25)
    progress = job.state.progress
    with screen.bar("epoch", 100, lines=False) as bar:
        for progress.step in range(10, 101, 10):
            job.reporter.report_step(progress, 100, bar)
    lines = screen.console.export_text().splitlines()
    assert [line.split("step ")[1].split("/")[0] for line in lines if "step " in line] == ["30", "50", "80"]
