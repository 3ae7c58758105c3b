import numpy as np
import pytest
import torch
from PIL import Image

from densekit.data.preprocessing import Preprocessing
from densekit.explain.overlay import overlay


def colourfulness(picture: Image.Image) -> np.ndarray:
    """How far each pixel is from grey, (H, W)."""
    pixels = np.asarray(picture).astype(int)
    return pixels.max(2) - pixels.min(2)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_colour_is_where_the_heat_is(picture):
    heat = torch.zeros(20, 30)
    heat[4:8, 21:27] = 5.0  # pixels 12 to 24 and 63 to 81
    colour = colourfulness(overlay(picture, heat))
    assert colour[14:22, 65:79].min() > 40
    assert colour[:, :58].max() <= 3  # inferno begins with (0, 0, 4)
    assert colour[28:].max() <= 3


def test_brighter_is_hotter_in_black_and_white_too():
    heat = torch.linspace(0, 1, 50).repeat(50, 1)
    grey = np.asarray(overlay(Image.new("RGB", (50, 50), "gray"), heat).convert("L")).astype(int)
    assert (np.diff(grey[25]) >= -1).all()
    assert grey[25, -1] - grey[25, 0] > 100


def test_what_was_not_seen_is_pale_and_without_colour(picture):
    result = overlay(picture, torch.ones(8, 8), seen=(1 / 3, 0.0, 2 / 3, 0.5))
    colour = colourfulness(result)
    assert colour[:30, 30:60].min() > 40
    colour[:30, 30:60] = 0
    assert colour.max() == 0
    assert np.asarray(result)[40:].min() > 150


@pytest.mark.parametrize("heat", [torch.zeros(4, 4), -torch.ones(4, 4)], ids=["nothing", "all_against"])
def test_no_evidence_has_no_colour(picture, heat):
    assert colourfulness(overlay(picture, heat)).max() <= 3


def test_one_hot_pixel_does_not_hide_the_rest():
    heat = torch.full((20, 20), 0.5)
    heat[0, 0] = 1000.0
    result = np.asarray(overlay(Image.new("L", (20, 20)), heat))
    assert (result[10, 10] == result[0, 0]).all()
    alone = torch.zeros(20, 20)
    alone[10, 10] = 0.1  # less than a hundredth of the picture
    assert colourfulness(overlay(Image.new("L", (20, 20)), alone))[10, 10] > 40


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_any_mode_and_the_picture_is_left_alone(picture, mode):
    picture = picture.convert(mode)
    before = picture.tobytes()
    result = overlay(picture, torch.rand(7, 7), seen=(0.1, 0.2, 0.9, 0.8))
    assert (result.size, result.mode) == (picture.size, "RGB")
    assert picture.tobytes() == before


@pytest.mark.parametrize("size", [(60, 90), (333, 100), (40, 40), (5, 700), (224, 224)], ids=str)
@pytest.mark.parametrize("fraction", [1.0, 0.875], ids=["whole", "fraction"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_seen_part_is_what_the_preprocessing_leaves(size, fraction, resize):
    """A picture whose value is the position: the preprocessed one tells where its edges came from."""
    height, width = size
    preprocessing = Preprocessing(size=(40, 56), resize=resize, crop_fraction=fraction)
    left, top, right, bottom = preprocessing.seen_part(height, width)
    for length, axis, near, far in ((height, 0, top, bottom), (width, 1, left, right)):
        ramp = (np.arange(length) + 0.5) / length  # position of each pixel's middle as a share
        pixels = np.broadcast_to(np.expand_dims(ramp, 1 - axis), size)
        seen = preprocessing.to_size(torch.from_numpy(pixels.copy())[None].float())[0].mean(1 - axis).numpy()
        middle = slice(len(seen) // 4, -(len(seen) // 4))  # the edges of the whole picture repeat themselves
        expected = near + (far - near) * (np.arange(len(seen)) + 0.5) / len(seen)
        np.testing.assert_allclose(seen[middle], expected[middle], atol=1.5 / length / 2)
