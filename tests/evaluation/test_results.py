import csv
import io

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console
from sklearn.metrics import confusion_matrix

from densekit.console import Screen
from densekit.errors import CheckpointError
from densekit.evaluation.metrics import Metrics, compute_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.plots import draw_confusion
from densekit.evaluation.results import read_metrics, write_evaluation
from densekit.evaluation.table import metrics_table

MESSY = ("$\\frac$", "10$_x$", "[bold]dog", ":smile:", "日本", 'a,b "c"', "x" * 80)


def make_metrics(names: tuple[str, ...], pictures: int = 500) -> Metrics:
    """Figures of guesses of which about two of three are right."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(len(names), (pictures,), generator=random)
    logits = torch.randn(pictures, len(names), generator=random)
    right = torch.rand(pictures, generator=random) < 0.6
    logits[right, labels[right]] += 10
    return compute_metrics(Outcomes(logits, labels, torch.arange(pictures)), names, split="test")


def show(metrics: Metrics) -> str:
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    console.print(metrics_table(metrics))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("count", [2, 10, 60], ids=["two", "numbers_in_cells", "too_many_to_label"])
def test_confusion_picture(tmp_path, count):
    names = tuple(f"a class with a rather long name {i}" for i in range(count))
    draw_confusion(tmp_path / "confusion.png", list(names), make_metrics(names))
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"
        assert max(picture.size) < 2500
        blues = np.unique(np.asarray(picture.convert("L")))
    assert len(blues) > 50  # the scale of blues, not an empty page


def test_confusion_picture_with_messy_names(tmp_path):
    draw_confusion(tmp_path / "confusion.png", list(MESSY), make_metrics(MESSY))
    assert (tmp_path / "confusion.png").stat().st_size > 5000


def test_confusion_csv_with_messy_names(tmp_path):
    metrics = make_metrics(MESSY)
    write_evaluation(tmp_path, metrics, {"data": "here"})
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(MESSY)
    assert tuple(tuple(map(int, row[1:])) for row in rows) == metrics.confusion


def test_table_shows_names_as_they_are():
    text = show(make_metrics(MESSY))
    assert all(name in text for name in MESSY[:-1])
    assert text.count("x") == 81  # the long name is folded, not cut


def test_table_says_split_interval_and_count():
    metrics = make_metrics(tuple("abc"))
    low, high = metrics.accuracy_interval_95
    assert f"test accuracy {metrics.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), loss" in show(metrics)
    assert "500 pictures" in show(metrics)
    assert "top-5" not in show(metrics)
    assert f"top-5 {make_metrics(tuple('abcdef')).top5:.2%}" in show(make_metrics(tuple("abcdef")))


def test_table_has_a_dash_where_there_is_no_figure():
    outcomes = Outcomes(torch.eye(3)[[0, 0]], torch.tensor([0, 0]), torch.arange(2))
    rows = [line.split() for line in show(compute_metrics(outcomes, tuple("abc"), split="val")).splitlines()]
    assert ["a", "2", "100.0%", "100.0%", "100.0%"] in rows
    assert ["b", "0", "-", "-", "-"] in rows


def test_colours_are_shares_of_the_true_class(tmp_path, monkeypatch):
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    logits = torch.eye(2)[torch.tensor([0, 0, 0, 1, 1, 0])]
    metrics = compute_metrics(Outcomes(logits, labels, torch.arange(6)), ("a", "b"), split="test")
    drawn, draw = [], Axes.imshow

    def note(axes, values, **options):
        drawn.append(values)
        return draw(axes, values, **options)

    monkeypatch.setattr(Axes, "imshow", note)
    draw_confusion(tmp_path / "confusion.png", ["a", "b"], metrics)
    np.testing.assert_allclose(drawn[0], confusion_matrix(labels, logits.argmax(1), normalize="true"))


def test_damaged_figures_are_told(tmp_path):
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"metrics\.json is damaged"):
        read_metrics(tmp_path, Screen(quiet=True))
