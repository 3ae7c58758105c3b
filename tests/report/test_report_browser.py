"""The page in a real browser: what its DOM holds, and that the pictures behind a cell come out when it is chosen."""

import numpy as np
from PIL import Image


def test_the_dom_holds_what_was_measured(browse, report_file, read_page):
    page = read_page(browse(report_file.as_uri(), "--dump-dom"))
    assert "test accuracy 96.00 %" in page.text
    assert len(page.every("img")) == len(read_page(report_file.read_text(encoding="utf-8")).every("img"))
    assert len(page.every("svg")) == 4  # two curves, calibration with and without temperature
    assert not page.every("script")


def test_hostile_names_are_text_in_the_dom(browse, hostile_file, hostile_names, read_page):
    page = read_page(browse(hostile_file.as_uri(), "--dump-dom"))
    assert all(name in page.text for name in hostile_names)
    assert not page.every("script")
    assert len(page.every("style")) == 1
    assert all(picture["src"].startswith("data:image/jpeg") for picture in page.every("img"))


def test_choosing_a_cell_shows_its_pictures(browse, report_file, tmp_path):
    seen = {}
    for place in ("", "#behind-1-2"):
        browse(report_file.as_uri() + place, f"--screenshot={tmp_path / 'page.png'}")
        with Image.open(tmp_path / "page.png") as picture:
            seen[place] = np.asarray(picture.convert("RGB")).astype(int)
    above, below = (np.abs(seen[""] - seen["#behind-1-2"])[rows].mean() for rows in (slice(0, 400), slice(-100, None)))
    assert above == 0
    assert below > 1
