"""Sheets of pictures with a title above each, to look at on a phone or a desk."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 8  # pixels
_INK, _PAPER, _PALE_INK = "#1a1a1a", "white", "#666666"


class Panel(NamedTuple):
    """A picture, what stands above it, and a second line."""

    picture: Image.Image
    title: str
    note: str


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture that fits into a square: shrunk smoothly, or enlarged by a whole number, pixel by pixel."""
    longest = max(picture.size)
    if longest > side:
        size = [max(1, round(length * side / longest)) for length in picture.size]
        return picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    width, height = (length * (side // longest) for length in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)


def draw_sheet(rows: Sequence[Sequence[Panel]], *, side: int, foot: str) -> Image.Image:
    """Draw rows of panels below each other.

    Args:
        rows: one panel or more in each.
        side: width of a column in pixels; no picture may be wider or higher.
        foot: a line below all.

    Returns:
        RGB; letters are as high as can be read where the sheet fills the width of a phone.
    """
    font = _font(round(side / 14) + 6)
    line = font.size * 1.3
    heights = [max(panel.picture.height for panel in row) + round(2 * line) + 2 * _MARGIN for row in rows]
    width = max(map(len, rows)) * (side + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, sum(heights) + round(line) + _MARGIN), _PAPER)
    draw, y = ImageDraw.Draw(sheet), _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, title, note) in enumerate(row):
            x = _MARGIN + column * (side + _MARGIN)
            draw.text((x, y), _shorten(title, font, side), _INK, font)
            draw.text((x, y + line), _shorten(note, font, side), _PALE_INK, font)
            sheet.paste(picture, (x, y + round(2 * line)))
        y += height
    small = _font(round(font.size * 0.8))
    draw.text((_MARGIN, y), _shorten(foot, small, width - 2 * _MARGIN), _PALE_INK, small)
    return sheet


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from pathlib import Path

    from matplotlib import get_data_path

    # Pillow's own font has no umlauts
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text on one line that fits a width, if need be without its middle: the ends tell names apart."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())  # file names need not be valid text
    kept, short = len(text), text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short
