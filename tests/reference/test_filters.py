import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densekit.errors import SettingsError, ShapeError
from densekit.reference.filters import GAUSSIAN_3, GAUSSIAN_5, LAPLACIAN, apply_filter, side_by_side


def test_weights_on_paper():
    assert LAPLACIAN.tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]
    assert (GAUSSIAN_3 * 16).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    rows = [[1, 2, 3, 2, 1], [2, 5, 6, 5, 2], [3, 6, 8, 6, 3], [2, 5, 6, 5, 2], [1, 2, 3, 2, 1]]
    np.testing.assert_allclose(GAUSSIAN_5 * 84, rows, rtol=1e-15)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [(LAPLACIAN, 0), (GAUSSIAN_3, 200), (GAUSSIAN_5, 200)],
    ids=["laplacian", "gaussian_3", "gaussian_5"],
)
def test_a_flat_picture_has_no_edges_and_keeps_its_brightness_up_to_the_border(kernel, expected):
    for picture in (np.full((4, 7), 200, np.uint8), np.full((4, 7, 3), 200, np.uint8)):
        np.testing.assert_allclose(apply_filter(picture, kernel), np.full(picture.shape, expected), rtol=1e-12)


def test_a_single_bright_pixel_draws_the_kernel():
    picture = np.zeros((5, 5), np.uint8)
    picture[2, 2] = 255
    lopsided = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(apply_filter(picture, lopsided)[1:4, 1:4], 255 * lopsided[::-1, ::-1])


def test_colours_do_not_mix(random):
    picture = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    filtered = apply_filter(picture, GAUSSIAN_5)
    for colour in range(3):
        np.testing.assert_allclose(filtered[..., colour], apply_filter(picture[..., colour], GAUSSIAN_5))


def test_filter_errors():
    with pytest.raises(SettingsError, match="a 2x2 filter has no centre: use an odd size"):
        apply_filter(np.zeros((5, 5)), np.ones((2, 2)))
    with pytest.raises(ShapeError, match=r"expected a square"):
        apply_filter(np.zeros((5, 5)), np.ones((3, 1)))
    with pytest.raises(ShapeError, match=r"picture of shape \(5, 5, 4\): expected \(H, W\) grey or \(H, W, 3\)"):
        apply_filter(np.zeros((5, 5, 4)), LAPLACIAN)


def test_side_by_side_draws_every_picture_under_its_title(random):
    pictures = {f"number {i}": random.uniform(-50, 300, (4, 6, 3)) for i in range(3)} | {"grey": np.eye(4) * 255}
    axes = side_by_side(pictures, columns=3).axes  # two rows; two places stay empty
    assert [axis.get_title() for axis in axes] == [*pictures, "", ""]
    for axis, picture in zip(axes, pictures.values(), strict=False):
        drawn = axis.images[0].get_array()
        np.testing.assert_array_equal(drawn, np.clip(picture, 0, 255).astype(np.uint8))
    assert not axes[-1].images


def test_side_by_side_needs_pictures():
    with pytest.raises(SettingsError, match="0 pictures in 4 columns"):
        side_by_side({})
    with pytest.raises(ShapeError, match="expected"):
        side_by_side({"flat": np.zeros(5)})


def test_tutorial_runs_and_draws_its_figure(tmp_path, monkeypatch, capsys):
    tutorial = Path(__file__).parents[2] / "docs" / "tutorials" / "convolution_by_hand.py"
    path = tmp_path / "filters.png"
    monkeypatch.setattr(sys, "argv", [str(tutorial), str(path)])
    runpy.run_path(str(tutorial), run_name="__main__")
    assert "[ 0  8 10  0]" in capsys.readouterr().out
    with Image.open(path) as figure:
        pixels = np.asarray(figure.convert("L"))
    assert pixels.shape[1] > 1000
    assert pixels.std() > 30  # not an empty page
    assert path.stat().st_size < 400_000
