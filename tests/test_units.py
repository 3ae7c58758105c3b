import pytest

from densekit.units import duration, short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (60, "1:00 min"), (3599.4, "59:59 min")),
        *((3599.6, "1:00 h"), (3600, "1:00 h"), (90061, "25:01 h")),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (17, "17"),
        (999.4, "999"),
        (999.6, "1 k"),
        (999_600, "1 M"),
        (2_603_000_000, "2.6 G"),
        (1e22, "10000 E"),
    ],
)
def test_short(number, text):
    assert short(number) == text
