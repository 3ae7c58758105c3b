"""Pictures kept in memory are the pictures on the disk, as the network sees them."""

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.data.loaders import evaluation_loader
from densekit.data.memory import load_into_memory
from densekit.data.normalisation import normalisation_for
from densekit.data.picture_set import DataSet, PictureSet
from densekit.data.preprocessing import Preprocessing


@pytest.fixture
def photographs(tmp_path):
    """Pictures of several shapes, one of them grey, all larger than the network takes."""
    random, paths, shapes = np.random.default_rng(0), [], []
    for number, shape in enumerate([(40, 60, 3), (61, 40, 3), (50, 50), (90, 31, 3)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
        shapes.append((*shape, 1)[:3])
    return PictureSet(paths, np.arange(4), "train", np.array(shapes, np.int64))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrunk_in_memory_gives_the_bits_of_the_files(photographs, channels, resize, interpolation, screen):
    preprocessing = Preprocessing(channels=channels, size=(20, 24), resize=resize, interpolation=interpolation)
    kept, damaged = load_into_memory(photographs, preprocessing=preprocessing, screen=screen)
    assert not damaged
    assert kept.bytes_in_memory == 4 * 20 * 24 * channels
    (mine,), (files,) = (list(evaluation_loader(part, preprocessing, 4, workers=0)) for part in (kept, photographs))
    torch.testing.assert_close(mine.pictures, files.pictures, atol=0, rtol=0)
    assert kept.shapes is photographs.shapes  # what the files hold


def test_colours_measured_in_memory_are_those_of_the_files(photographs, screen):
    preprocessing = Preprocessing(channels=3, size=(20, 24))
    kept, _ = load_into_memory(photographs, preprocessing=preprocessing, screen=screen)
    mine, files = (normalisation_for(DataSet("x", ("a",), part), preprocessing) for part in (kept, photographs))
    assert mine == files


def test_what_would_grow_is_kept_as_it_is(photographs, screen):
    size = Preprocessing(channels=3, size=(80, 80))
    kept, _ = load_into_memory(photographs, preprocessing=size, screen=screen)
    assert kept.bytes_in_memory == photographs.shapes.prod(axis=1).sum()


def test_shrunk_they_fit_where_whole_they_do_not(photographs, screen):
    room = {"max_bytes": 4 * 8 * 8 * 3, "screen": screen}
    small = Preprocessing(channels=3, size=(8, 8))
    assert load_into_memory(photographs, preprocessing=small, **room)[0].in_memory
    assert not load_into_memory(photographs, **room)[0].in_memory
    assert photographs.bytes_in_memory == 0


def test_a_crop_with_a_margin_is_cut_from_the_whole_picture(photographs, screen):
    margin = Preprocessing(channels=3, size=(16, 16), resize="crop", crop_fraction=0.8)
    kept, _ = load_into_memory(photographs, preprocessing=margin, screen=screen)
    (mine,), (files,) = (list(evaluation_loader(part, margin, 4, workers=0)) for part in (kept, photographs))
    torch.testing.assert_close(mine.pictures, files.pictures, atol=0, rtol=0)


def test_a_picture_too_narrow_for_its_crop_is_left_out(photographs, tmp_path, screen, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("RGB", (2, 900)).save(tmp_path / "0.png")
    shapes = photographs.shapes.copy()
    shapes[0] = (900, 2, 3)
    narrow = PictureSet(photographs.pictures[:1], photographs.labels[:1], "train", shapes[:1])
    crop = Preprocessing(channels=3, size=(10, 10), resize="crop")
    _, (left_out,) = load_into_memory(narrow, preprocessing=crop, screen=screen)
    assert "too narrow" in left_out.reason
