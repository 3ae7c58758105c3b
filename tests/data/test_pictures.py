import io
import os
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin

from densekit.data.pictures import picture_header, read_picture
from densekit.errors import PictureError

GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)  # (2, 3): height and width differ
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def rgba(colours=RGB, alpha=128):
    return Image.fromarray(np.dstack([colours, np.full(GREY.shape, alpha, np.uint8)]))


def on_white(values, alpha=128):
    return np.rint(values * (alpha / 255) + 255 * (1 - alpha / 255))


def palette():
    indexed = Image.frombytes("P", (3, 2), bytes([0, 1, 0, 1, 0, 1]))
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    return indexed


PALETTE = np.array([[10, 20, 30], [200, 100, 50]])[np.array([[0, 1, 0], [1, 0, 1]])]
PALETTE_ON_WHITE = np.where(PALETTE == [200, 100, 50], 255, PALETTE)
SIXTEEN = GREY.astype(np.uint16) * 257
CMYK = np.dstack([255 - RGB, np.zeros(GREY.shape, np.uint8)])

KINDS = {
    "grey": ("png", Image.fromarray(GREY), {}, GREY),
    "rgb": ("png", Image.fromarray(RGB), {}, RGB),
    "one_bit": ("png", Image.fromarray(GREY > 120), {}, np.where(GREY > 120, 255, 0)),
    "grey_16_bit_png": ("png", Image.fromarray(SIXTEEN), {}, GREY),
    "grey_16_bit_tiff": ("tif", Image.fromarray(SIXTEEN), {}, GREY),
    "grey_16_bit_pgm": ("pgm", Image.fromarray(SIXTEEN.astype(np.int32)), {}, GREY),
    "dark_16_bit_stays_dark": ("png", Image.fromarray(SIXTEEN // 257 * 10), {}, np.rint(GREY / 25.7)),
    "int32_holding_8_bit": ("tif", Image.fromarray(GREY.astype(np.int32)), {}, GREY),
    "int32_holding_16_bit": ("tif", Image.fromarray(SIXTEEN.astype(np.int32)), {}, GREY),
    "int32_beyond": ("tif", Image.fromarray(GREY.astype(np.int32) * 100_000 - 70_000), {}, GREY),
    "float_0_to_1": ("tif", Image.fromarray(GREY.astype(np.float32) / 255), {}, GREY),
    "float_0_to_255": ("tif", Image.fromarray(GREY.astype(np.float32)), {}, GREY),
    "float_negative": ("tif", Image.fromarray(GREY.astype(np.float32) / 10 - 20), {}, GREY),
    "float_nan": (
        "tif",
        Image.fromarray(np.where(GREY == 0, np.nan, GREY / 255).astype(np.float32)),
        {},
        GREY,
    ),
    "float_constant": ("tif", Image.fromarray(np.full((2, 3), -7, np.float32)), {}, np.zeros((2, 3))),
    "rgba": ("png", rgba(), {}, on_white(RGB)),
    "rgba_clear": ("png", rgba(alpha=0), {}, np.full(RGB.shape, 255)),
    "grey_alpha": ("png", rgba(np.dstack([GREY] * 3)).convert("LA"), {}, on_white(GREY)),
    "grey_transparent_colour": (
        "png",
        Image.fromarray(GREY),
        {"transparency": 50},
        np.where(GREY == 50, 255, GREY),
    ),
    "rgb_transparent_colour": (
        "png",
        Image.fromarray(RGB),
        {"transparency": tuple(map(int, RGB[0, 0]))},
        np.where((RGB[0, 0] == RGB).all(-1, keepdims=True), 255, RGB),
    ),
    "palette": ("png", palette(), {}, PALETTE),
    "palette_transparent": ("png", palette(), {"transparency": 1}, PALETTE_ON_WHITE),
    "palette_transparent_bytes": ("png", palette(), {"transparency": b"\xff\x00"}, PALETTE_ON_WHITE),
    "gif_transparent": ("gif", palette(), {"transparency": 1}, PALETTE_ON_WHITE),
    "animated_gif": (
        "gif",
        palette(),
        {"save_all": True, "append_images": [Image.new("RGB", (3, 2), "red")]},
        PALETTE,
    ),
    "animated_webp": (
        "webp",
        Image.fromarray(RGB),
        {"save_all": True, "append_images": [Image.new("RGB", (3, 2), "red")], "lossless": True},
        RGB,
    ),
    "several_page_tiff": (
        "tif",
        Image.fromarray(RGB),
        {"save_all": True, "append_images": [Image.new("RGB", (9, 9), "red")]},
        RGB,
    ),
    "cmyk": ("tif", Image.frombytes("CMYK", (3, 2), CMYK.tobytes()), {}, RGB),
    "bmp": ("bmp", Image.fromarray(RGB), {}, RGB),
}


@pytest.mark.parametrize(("suffix", "picture", "options", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_picture_becomes_8_bit_grey_or_rgb(tmp_path, suffix, picture, options, expected):
    path = tmp_path / f"picture.{suffix}"
    picture.save(path, **options)
    read = read_picture(path)
    assert read.mode == ("L" if expected.ndim == 2 else "RGB")
    np.testing.assert_allclose(np.asarray(read).astype(float), expected, atol=1)
    header = picture_header(path)
    assert header == (2, 3, 1 if expected.ndim == 2 else 3)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    """The colours are mid grey and a strong red, within what the conversions round."""
    path = tmp_path / "picture.tif"
    if mode == "LAB":  # white D50: L 54.3, a 80.8, b 69.9 is sRGB red; L 53.6, a = b = 0 is grey 128
        raw = np.array([[[138, 81, 70], [137, 0, 0]]], np.uint8)
        picture = Image.frombytes("LAB", (2, 1), raw.tobytes())
    else:
        picture = Image.fromarray(np.array([[[255, 0, 0], [128, 128, 128]]], np.uint8)).convert("YCbCr")
    picture.save(path)
    read = np.asarray(read_picture(path)).astype(int)
    np.testing.assert_allclose(read, [[[255, 0, 0], [128, 128, 128]]], atol=6)


def test_adobe_cmyk_jpeg_is_not_inverted(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
    np.testing.assert_allclose(np.asarray(read_picture(path))[8, 8], [255, 0, 0], atol=6)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation, suffix):
    """Definition: the stored picture's first row and column lie at the sides that the EXIF standard names."""
    upright = np.zeros((4, 6), np.uint8)
    upright[0], upright[:, 0] = 100, 200
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    picture = read_picture(path)
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), upright)
    assert picture_header(path) == (4, 6, len(picture.getbands()))


def test_damaged_exif_does_not_lose_the_picture(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert read_picture(path).size == (3, 2)


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(RGB).save(path, format="PNG")
    np.testing.assert_array_equal(np.asarray(read_picture(path)), RGB)


def _png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", "the file is empty"),
    "not_a_picture": (b"just some text, saved as a picture", "not a picture of a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture of a known format"),
    "above_the_limit": (_png_claiming(10_000, 10_000), "larger than the limit of 89478485 pixels"),
    "far_above_the_limit": (_png_claiming(30_000, 30_000), "larger than the limit of 89478485 pixels"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("read", [read_picture, picture_header])
def test_bad_files_say_why_in_one_line(tmp_path, read, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_cut_short(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(PictureError, match=r"damaged or cut short|not a picture"):
        read_picture(path)


def test_missing_and_folder(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(PictureError, match=r"folder\.jpg: a folder"):
        read_picture(tmp_path / "folder.jpg")
    with pytest.raises(PictureError, match=r"none\.jpg: no such file"):
        read_picture(tmp_path / "none.jpg")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="file permissions of this system are not POSIX ones")
def test_no_permission(tmp_path):
    path = tmp_path / "private.png"
    Image.fromarray(RGB).save(path)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # permissions do not bind the superuser
            os.seteuid(65534)
        with pytest.raises(PictureError, match="no permission"):
            read_picture(path)
    finally:
        os.seteuid(user)


def test_warnings_stay_inside_and_filters_survive_threads(tmp_path):
    """Pillow warns about this TIFF; eight threads read it; the filters must come back as they were."""
    path = tmp_path / "picture.tif"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "text"
    Image.fromarray(RGB).save(path, tiffinfo=tags)
    raw = bytearray(path.read_bytes())
    at = raw.index(struct.pack("<HHI", 270, 2, 5))
    raw[at + 4 : at + 8] = struct.pack("<I", 10_000)  # the tag claims more bytes than the file has
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        Image.open(path).convert("RGB")

    before = warnings.filters[:]
    failures = []

    def work():
        try:
            for _ in range(20):
                read_picture(path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert warnings.filters == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match=r"pipe\.png: a pipe or device, not a file"):
        read_picture(tmp_path / "pipe.png")


def heic(values, **options):
    """A picture as iPhones write it."""
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="HEIF", quality=100, chroma=444, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["photo.HEIC", "photo.jpg"])
def test_heic(tmp_path, name):
    values = np.zeros((16, 24, 3), np.uint8)
    values[:, :12], values[8:, 12:] = (200, 30, 90), (20, 180, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    (path := tmp_path / name).write_bytes(heic(values, exif=exif.tobytes()))
    assert picture_header(path) == (24, 16, 3)
    np.testing.assert_allclose(np.asarray(read_picture(path), int), np.rot90(values, -1).astype(int), atol=4)


def test_heic_says_what_it_needs(tmp_path, monkeypatch):
    (path := tmp_path / "photo.heic").write_bytes(heic(np.zeros((16, 16, 3), np.uint8)))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r'photo.heic: HEIC: .* pip install "densekit\[heic\]"'):
        read_picture(path)
