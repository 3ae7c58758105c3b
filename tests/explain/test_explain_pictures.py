from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.pictures import read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.errors import DataError, SettingsError, UnknownNameError
from densekit.explain.explain_pictures import explain_pictures
from densekit.explain.heat_maps import heat_maps
from densekit.explain.overlay import overlay
from densekit.explain.sheet import fit
from densekit.loading import load_classifier
from densekit.runtimes.exported import ExportedNetwork

QUIET = Screen(quiet=True)
MARGIN = 8


@pytest.fixture
def dotted(tmp_path):
    """A blue picture of 120x80 with a red square in its upper right, stored lying on its side."""
    upright = Image.new("RGB", (120, 80), (0, 60, 120))
    upright.paste((250, 0, 0), (80, 10, 100, 30))
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to be seen
    path = tmp_path / "pictures" / "dotted.png"
    path.parent.mkdir()
    sideways.save(path, exif=exif)
    return path


def panel(path, column: int, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a panel in the first row of a picture's file: of ``size``, the lowest of its column."""
    sheet = np.asarray(read_picture(path)).astype(int)
    x = MARGIN + column * (448 + MARGIN)
    filled = np.flatnonzero((sheet[:, x : x + size[0]] != 255).any(2).mean(1) > 0.99)
    return sheet[filled[0] : filled[0] + size[1], x : x + size[0]]


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_heat_lies_on_the_upright_original(red_finder, dotted, tmp_path, resize):
    preprocessing = Preprocessing(size=(32, 32), resize=resize, crop_fraction=0.9)
    finder = Classifier(red_finder.network, red_finder.classes, preprocessing)
    done = explain_pictures(finder, dotted, top=1, out=tmp_path / "out", screen=QUIET)
    assert done.predictions[0].label == "red"
    assert [path.name for path in done.folder.iterdir()] == ["001-dotted.png"]
    scale = 448 // 120
    pixels = panel(done.folder / "001-dotted.png", 1, (120 * scale, 80 * scale))
    red = np.argwhere(pixels[..., 0] - pixels[..., 2] > 60) / scale
    (top, left), (bottom, right) = red.min(0), red.max(0)
    # of the crop, whose right edge is at 60 + 80 * 0.9 / 2, only the left part of the square is seen
    expected = (10, 80, 30, 96 if resize == "crop" else 100)
    np.testing.assert_allclose((top, left, bottom, right), expected, atol=4)
    shown = panel(done.folder / "001-dotted.png", 0, (120 * scale, 80 * scale))
    assert (shown[20 * scale, 90 * scale] == (250, 0, 0)).all()


def test_a_file_for_each_picture_and_contact_sheets(red_finder, paint, tmp_path):
    for folder in ("one", "two"):
        paint(tmp_path / "in" / folder, "red", 13)
    done = explain_pictures(red_finder, tmp_path / "in", out=tmp_path / "out", batch_size=5, screen=QUIET)
    names = sorted(path.name for path in done.folder.iterdir())
    assert len(names) == 26 + 2
    assert names[:2] == ["001-0.png", "002-1.png"]
    assert names[-2:] == ["contact-sheet-1.png", "contact-sheet-2.png"]
    first, second = (read_picture(done.folder / name) for name in names[-2:])
    assert first.height > 20 * second.height  # 25 rows and one
    assert first.width == 3 * (224 + MARGIN) + MARGIN  # two classes in all


def test_given_classes_are_explained_whatever_is_likeliest(red_finder, dotted, tmp_path):
    asked = ["not red", "not red"]
    done = explain_pictures(red_finder, dotted, classes=asked, top=1, out=tmp_path / "out", screen=QUIET)
    assert done.predictions[0].top == red_finder.predict([dotted], top=1)[0].top  # the answer stays what it is
    picture, preprocessing = read_picture(dotted), red_finder.preprocessing
    (heat,) = heat_maps(red_finder, preprocessing(picture)[None], torch.tensor([1]))
    shown = fit(picture, 448)
    expected = np.asarray(overlay(shown, heat, preprocessing.seen_part(picture.height, picture.width)))
    assert (expected != np.asarray(shown)).any()
    np.testing.assert_array_equal(panel(done.folder / "001-dotted.png", 1, shown.size), expected)


def test_probabilities_are_those_of_predict(red_finder, paint, tmp_path):
    files = [paint(tmp_path, "red", 1) / "0.png", paint(tmp_path, "deep blue", 1, first=1) / "1.png"]
    done = explain_pictures(red_finder, files, out=tmp_path / "out", screen=QUIET)
    for found, expected in zip(done.predictions, red_finder.predict(files), strict=True):
        assert (found.path, [name for name, _ in found.top]) == (expected.path, [name for name, _ in expected.top])
        assert found.probability == pytest.approx(expected.probability)


def test_a_run_folder_is_a_classifier(colour_run, colours, tmp_path):
    files = [colours / "test" / "red" / "100.png"]
    done = explain_pictures(colour_run, files, out=tmp_path / "out", screen=QUIET)
    assert done.predictions[0].label == "red"


def test_pictures_that_cannot_be_read_are_named_and_left_out(red_finder, paint, tmp_path):
    good = paint(tmp_path, "red", 1) / "0.png"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    given = [tmp_path / "bad.png", good, tmp_path / "missing.png"]
    done = explain_pictures(red_finder, given, out=tmp_path / "out", batch_size=1, screen=QUIET)
    reasons = [prediction.error for prediction in done.predictions]
    assert reasons == ["not a picture of a known format", None, "no such file"]
    assert [path.name for path in done.folder.iterdir()] == ["001-0.png"]


def test_a_picture_too_narrow_for_the_crop_is_named_and_left_out(red_finder, paint, tmp_path):
    good = paint(tmp_path, "red", 1) / "0.png"
    Image.new("L", (1_200_000, 1)).save(tmp_path / "narrow.png")
    preprocessing = red_finder.preprocessing.model_copy(update={"resize": "crop"})
    cropping = replace(red_finder, preprocessing=preprocessing)
    done = explain_pictures(cropping, [tmp_path / "narrow.png", good], out=tmp_path / "out", screen=QUIET)
    told, answered = done.predictions
    assert (told.path, answered.error) == (str(tmp_path / "narrow.png"), None)
    assert told.error.startswith("1x1200000 pixels are too narrow: enlarged to ")


def test_nothing_readable_makes_no_folder(red_finder, tmp_path):
    done = explain_pictures(red_finder, tmp_path / "missing.png", out=tmp_path / "out", screen=QUIET)
    assert done.predictions[0].error == "no such file"
    assert not (tmp_path / "out").exists()


def test_names_of_any_kind(red_finder, paint, tmp_path):
    picture = paint(tmp_path, "red", 1) / "0.png"
    names = ["日" * 80 + ".png", "a" * 240 + ".png", "new\nline.png", "-.png"]
    files = [picture.rename(tmp_path / names[0])]
    for name in names[1:]:
        files.append(tmp_path / name)
        files[-1].write_bytes(files[0].read_bytes())
    done = explain_pictures(red_finder, files, out=tmp_path / "out", screen=QUIET)
    assert [prediction.error for prediction in done.predictions] == [None] * 4
    assert len(list(done.folder.glob("00*.png"))) == 4


def test_nothing_is_overwritten(red_finder, paint, tmp_path, monkeypatch):
    picture = paint(tmp_path / "in", "red", 1) / "0.png"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="used exists already: choose another --out"):
        explain_pictures(red_finder, picture, out=tmp_path / "used", screen=QUIET)
    monkeypatch.chdir(tmp_path)
    folders = [explain_pictures(red_finder, picture, screen=QUIET).folder.name for _ in range(2)]
    assert folders == ["explained", "explained-2"]


def test_a_network_that_prepares_pictures_itself_is_refused(red_finder, dotted, tmp_path):
    preprocessing = red_finder.preprocessing.model_copy(update={"in_network": True})
    baked = Classifier(red_finder.network, red_finder.classes, preprocessing)
    with pytest.raises(SettingsError, match="prepares its pictures itself, so its answers cannot be explained"):
        explain_pictures(baked, dotted, method="occlusion", out=tmp_path / "out", screen=QUIET)
    assert not (tmp_path / "out").exists()


def test_an_exported_network_is_closed(red_finder, dotted, tmp_path):
    closed = Classifier(ExportedNetwork(red_finder.network.forward), red_finder.classes, red_finder.preprocessing)
    with pytest.raises(SettingsError, match="gradcam looks into the network, an exported one is closed: use occlusion"):
        explain_pictures(closed, dotted, method="gradcam", out=tmp_path / "out", screen=QUIET)
    done = explain_pictures(closed, dotted, top=1, out=tmp_path / "out", screen=QUIET)
    again = explain_pictures(red_finder, dotted, top=1, method="occlusion", out=tmp_path / "again", screen=QUIET)
    assert done.predictions == again.predictions
    assert (done.folder / "001-dotted.png").read_bytes() == (again.folder / "001-dotted.png").read_bytes()


def test_wrong_input(red_finder, dotted, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown class 'cat'; there are: not red, red"):
        explain_pictures(red_finder, dotted, classes=["red", "cat"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match="top=0"):
        explain_pictures(red_finder, "a.png", top=0, out=tmp_path)
    with pytest.raises(DataError, match="no pictures found"):
        explain_pictures(red_finder, tmp_path / "*.png", out=tmp_path)


def test_any_number_of_labels(label_run, halves, tmp_path):
    files = [halves.parent / f"{i}.png" for i in range(6)]
    classifier = load_classifier(label_run, device="cpu")
    done = explain_pictures(classifier, files, top=1, out=tmp_path / "out", screen=QUIET)
    assert [each.labels for each in done.predictions] == [each.labels for each in classifier.predict(files, top=1)]
    assert any(len(each.labels or ()) == 2 for each in done.predictions)


def test_what_is_answered_is_explained_before_what_is_likelier(label_run, halves, tmp_path):
    only = replace(load_classifier(label_run, device="cpu"), thresholds=(1e-9, 0.999999, 0.999999))
    drawn = []
    for folder, further in (("answered", {"top": 1}), ("asked", {"classes": [only.classes[0]]})):
        done = explain_pictures(only, halves.parent / "1.png", out=tmp_path / folder, screen=QUIET, **further)
        drawn.append(next((tmp_path / folder).glob("*1.png")).read_bytes())
    assert done.predictions[0].labels == (only.classes[0],)
    assert done.predictions[0].label != only.classes[0]
    assert drawn[0] == drawn[1]
