import numpy as np
import pytest
from PIL import Image

from densekit.explain.sheet import Panel, _font, _shorten, draw_sheet, fit


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (1, 1), (32, 20), (200, 7)], ids=str)
def test_small_pictures_are_enlarged_pixel_by_pixel(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    shown = np.asarray(fit(Image.fromarray(pixels), 448))
    factor = 448 // max(size)
    np.testing.assert_array_equal(shown, pixels.repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize(("size", "shown"), [((4000, 3000), (448, 336)), ((449, 3), (448, 3)), ((1, 9000), (1, 448))])
def test_large_pictures_are_shrunk_in_proportion(size, shown):
    assert fit(Image.new("L", size), 448).size == shown


@pytest.mark.parametrize(
    "text", ["x" * 200, "Panorama mit Ümläuten (2024).jpg", "a\nb\tc", "日本" * 40, "bad \udcff name", "", "ok"]
)
def test_titles_fit_on_one_line(text):
    font = _font(20)
    short = _shorten(text, font, 150)
    assert font.getlength(short) <= 150
    assert "\n" not in short
    if len(text) > 50:
        assert short.startswith(text[0])
        assert short.endswith(text[-1])
        assert "…" in short


def test_panels_stand_in_columns_below_their_titles():
    colours = ["red", "green", "blue", "black"]
    panels = [Panel(Image.new("RGB", (100, 40 + 10 * i), c), f"title {c}", "note") for i, c in enumerate(colours)]
    sheet = draw_sheet([panels[:2], panels[2:]], side=100, foot="what it means")
    pixels = np.asarray(sheet)
    places = [np.argwhere((pixels == Image.new("RGB", (1, 1), c).getpixel((0, 0))).all(2)) for c in colours[:3]]
    assert [len(place) for place in places] == [100 * 40, 100 * 50, 100 * 60]
    (red, green, blue), size = ([tuple(place.min(0)) for place in places], sheet.size)
    assert red[0] == green[0] < blue[0]
    assert red[1] == blue[1] < green[1]
    assert size[0] == 2 * 100 + 3 * 8


def test_pictures_are_not_painted_over():
    """Text of one row ends above the pictures, and a high picture above the next row's text."""
    white = Panel(Image.new("RGB", (60, 200), "white"), "Ägypten, gjpqy", "Ägypten, gjpqy")
    sheet = np.asarray(draw_sheet([[white], [white]], side=60, foot="Ägypten").convert("L"))
    inked = (sheet < 200).any(1)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], inked, [False]]).astype(int)))
    gaps = runs[2::2] - runs[1:-1:2]
    assert (gaps >= 200).sum() == 2  # two pictures, free of ink
