import pytest

from densekit.evaluation.calibration import ConfidenceBin
from densekit.report.charts import PLOT, reliability_bars, share_ticks, training_curves


def history(*losses: tuple[float, float | None]) -> list[dict[str, float | None]]:
    return [{"epoch": i, "train_loss": train, "val_loss": val} for i, (train, val) in enumerate(losses, start=1)]


def test_points_stand_where_the_ticks_say():
    chart = training_curves(history((2.0, 1.5), (1.0, 0.5), (0.5, 1.0)), "loss", best_epoch=2)
    along = {tick.text: tick.place for tick in chart.x_ticks}
    up = {tick.text: tick.place for tick in chart.y_ticks}
    train, val = chart.lines
    assert train.points == [(along["1"], up["2"]), (along["2"], up["1"]), (along["3"], up["0.5"])]
    assert val.points[1] == (chart.kept, up["0.5"])
    assert chart.kept == along["2"]
    assert (along["1"], along["3"], up["0"]) == (PLOT.left, PLOT.right, PLOT.bottom)


def test_one_epoch_without_validation_is_one_point_in_the_middle():
    chart = training_curves(history((2.0, None)), "loss", best_epoch=None)
    assert [line.name for line in chart.lines] == ["training"]
    ((x, y),) = chart.lines[0].points
    assert x == (PLOT.left + PLOT.right) / 2
    assert PLOT.top <= y <= PLOT.bottom
    assert chart.kept is None


def test_reliability_bars():
    bins = (
        ConfidenceBin(0.0, 0.5, 0, None, None),
        ConfidenceBin(0.5, 0.75, 10, 0.75, 0.5),
        ConfidenceBin(0.75, 1.0, 40, 1.0, 1.0),
    )
    along, up = ({tick.text: tick.place for tick in ticks} for ticks in share_ticks())
    low, high = reliability_bars(bins)
    assert (low.x, low.x + low.width, low.y, low.expected) == pytest.approx(
        (along["50%"], along["75%"], up["50%"], up["75%"])
    )
    assert (high.y, high.expected, high.opacity) == (up["100%"], up["100%"], 1.0)
    assert low.opacity < high.opacity
    assert low.text == "10 pictures 50% to 75% sure: 50.0% right"
