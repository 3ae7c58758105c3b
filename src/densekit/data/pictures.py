"""Picture files: read what people really have as 8-bit grey or RGB, or say in one line why not."""

import functools
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from densekit.errors import MissingPartError, PictureError
from densekit.optional import require

PICTURE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".jp2",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
    }
    | {".pbm", ".pgm", ".ppm", ".pnm"}
)
# Only these are ever decoded: others of Pillow's readers start outside programs (EPS) or take anything (TGA).
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})
_SIDEWAYS = range(5, 9)  # EXIF orientations that swap height and width


class PictureHeader(NamedTuple):
    """What `read_picture` will return, known without decoding it."""

    height: int
    width: int
    channels: int  # 1 (mode "L") or 3 (mode "RGB")


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    path: Path
    reason: str

    @classmethod
    def because(cls, path: Path, error: PictureError) -> "Skipped":
        """The record of a picture that `read_picture` or `picture_header` refused."""
        return cls(path, str(error).removeprefix(f"{path}: "))

    def __str__(self) -> str:
        """Return ``path: reason``."""
        return f"{self.path}: {self.reason}"


def read_picture(path: str | Path) -> Image.Image:
    """Read one picture file, whatever its name says, fully decoded in mode ``"L"`` or ``"RGB"``.

    EXIF rotation is applied, transparency is laid on white, other colour spaces become RGB, the first frame
    of an animation is taken. Grey of 16 bits is divided by 257; 32-bit and float grey is scaled from the
    smallest of the ranges 0..1 (float only), 0..255 and 0..65535 that holds it, else from its own minimum and
    maximum.

    Raises:
        PictureError: the file is missing, empty, not a picture, damaged, or larger than Pillow's pixel limit;
            the message is ``path: reason``.
    """
    with _picture_errors(str(path)), _open(Path(path)) as picture:
        return _grey_or_rgb(picture)


def decode_picture(content: bytes, name: str) -> Image.Image:
    """Like `read_picture`, of what a picture file holds; ``name`` stands for the path in messages.

    Raises:
        PictureError: see `read_picture`.
    """
    with _picture_errors(name), _identify(io.BytesIO(content)) as picture:
        return _grey_or_rgb(picture)


def convert_picture(picture: Image.Image, name: str) -> Image.Image:
    """Like `read_picture`, of a picture that somebody else has opened; ``name`` stands for the path in messages.

    Raises:
        PictureError: see `read_picture`.
    """
    with _picture_errors(name):
        return _grey_or_rgb(picture)


def picture_header(path: str | Path) -> PictureHeader:
    """Look at the beginning of a picture file only; damage further in is not seen.

    Raises:
        PictureError: as `read_picture`.
    """
    with _picture_errors(str(path)), _open(Path(path)) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # whose size is that of the upright picture in newer Pillows
            width, height = picture.tag_v2[256], picture.tag_v2[257]
        if _orientation(picture) in _SIDEWAYS:
            width, height = height, width
        return PictureHeader(height, width, 1 if _is_grey(picture) else 3)


def _grey_or_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    return _as_grey_or_rgb(_upright(picture))


def _upright(picture: Image.Image) -> Image.Image:
    # exif_transpose would also rewrite the EXIF block, which fails on blocks that are only readable in part
    return ImageOps.exif_transpose(picture) if _orientation(picture) in range(2, 9) else picture


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        return 1


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in _GREY_MODES or picture.mode.startswith("I;")


def _as_grey_or_rgb(picture: Image.Image) -> Image.Image:
    mode = "L" if _is_grey(picture) else "RGB"
    if picture.mode in {"I", "F"} or picture.mode.startswith("I;"):
        return _deep_grey(picture)
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
        assert converted is not None  # only None with inPlace=True
        return converted
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert(mode)


def _deep_grey(picture: Image.Image) -> Image.Image:
    """8-bit grey from 16-bit, 32-bit or float grey, scaled as `read_picture` says."""
    values = np.asarray(picture).astype(np.float64)  # (H, W)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    if picture.mode.startswith("I;") or picture.format in {"PNG", "PPM"}:
        low, high = 0.0, 65535.0  # 16 bits by definition: the scale must not depend on the picture
    elif low >= 0 and high <= 65535:
        ranges = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next(top for top in ranges if high <= top)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / ((high - low) or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF and JPEG 2000 are not in every Pillow


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise _NotAFileError  # opening it could wait for ever
    # not by its name: Pillow would map an uncompressed TIFF, and mix up the sides of one that lies sideways
    with path.open("rb") as file, _identify(file) as picture:
        yield picture


def _identify(file: BinaryIO) -> Image.Image:
    beginning = file.read(64)
    if not beginning:
        raise _EmptyFileError
    file.seek(0)
    if _is_heic(beginning):  # of iPhones, whatever the name says
        require("pillow_heif", extra="heic").register_heif_opener()
        return Image.open(file, formats=("HEIF",))
    return Image.open(file, formats=_formats())


def _is_heic(beginning: bytes) -> bool:
    """Whether the box that begins a file, its length, b"ftyp", brands of four bytes, names one of HEVC's brands."""
    end = int.from_bytes(beginning[:4])
    brands = (beginning[place : place + 4] for place in range(8, min(end, len(beginning)), 4))
    return beginning[4:8] == b"ftyp" and any(brand[:3] in {b"hei", b"hev"} for brand in brands)


@contextmanager
def _picture_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into one PictureError, and keep its warnings to ourselves."""
    try:
        with _QUIET_PILLOW:
            yield
    except Exception as error:  # damaged files make Pillow's readers raise almost anything
        raise PictureError(f"{name}: {_reason(error)}") from error


class _NotAFileError(OSError):
    pass


class _EmptyFileError(OSError):
    pass


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"larger than the limit of {Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
    if isinstance(error, _NotAFileError):
        return "a pipe or device, not a file"
    if isinstance(error, MissingPartError):
        return f"HEIC: {error}"
    if isinstance(error, _EmptyFileError):
        return "the file is empty"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a picture"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    return f"damaged or cut short ({' '.join(str(error).split()) or type(error).__name__})"


class _QuietPillow:
    """Silences Pillow's warnings while any thread is inside; too many pixels become an exception.

    `warnings.catch_warnings` alone is not safe in threads: whoever leaves first would restore the filters of
    somebody else. Here the first thread in saves them and the last one out restores them.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(*exception)


_QUIET_PILLOW = _QuietPillow()
