"""Decode a set once and keep it in memory, at the size it is used at: an epoch then reads and decodes nothing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from densekit.console import Screen
from densekit.data.picture_set import PackedPictures, PictureSet
from densekit.data.pictures import Skipped, read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.errors import PictureError
from densekit.units import counted


def load_into_memory(
    pictures: PictureSet,
    *,
    preprocessing: Preprocessing | None = None,
    max_bytes: int = 2**30,
    strict: bool = False,
    screen: Screen | None = None,
) -> tuple[PictureSet, list[Skipped]]:
    """Decode all pictures into memory if they fit; those that turn out to be damaged are PictureErrors when read.

    Call it before loader processes start, so that they share the memory.

    Args:
        pictures: set to decode; returned as it is if it is in memory or needs more than ``max_bytes``.
        preprocessing: what each picture goes through first, whenever it is used: if that takes less memory, pictures
            are kept at its size, so that photographs are not shrunk again in every epoch.
        max_bytes: most memory to use, in bytes of decoded 8-bit pictures.
        strict: a picture that cannot be decoded is an error instead of being left out.
        screen: where progress goes.

    Returns:
        The set, and its damaged pictures.

    Raises:
        PictureError: the first picture that cannot be decoded, if ``strict``.
    """
    shapes = pictures.shapes
    if preprocessing is not None and preprocessing.covered_size == preprocessing.size:
        prepared = np.tile(np.array([*preprocessing.size, preprocessing.channels], np.int64), (len(pictures), 1))
        shapes = min(shapes, prepared, key=lambda shapes: shapes.prod(axis=1).sum())
    shrink = preprocessing if shapes is not pictures.shapes else None
    sizes = shapes.prod(axis=1)  # (N,) bytes of each picture
    if pictures.in_memory or sizes.sum() > max_bytes:
        return pictures, []
    flat = np.empty(int(sizes.sum()), np.uint8)
    damaged: dict[int, str] = {}
    packed = PackedPictures(flat, np.cumsum(sizes) - sizes, shapes, damaged)

    def decode(i: int) -> PictureError | None:
        try:
            picture, room = read_picture(pictures.pictures[i]), packed[i]
            if (picture.height, picture.width, len(picture.getbands())) != tuple(pictures.shapes[i]):
                raise PictureError(f"{pictures.pictures[i]}: changed while it was being read")
            room[...] = shrink.resized(picture) if shrink else np.asarray(picture)
        except PictureError as error:
            return error
        return None

    bad, screen = [], screen or Screen()
    with ThreadPoolExecutor(8) as pool, screen.bar("decoding pictures", len(pictures)) as bar:
        for i, error in enumerate(pool.map(decode, range(len(pictures)))):
            bar.advance()
            if error is None:
                continue
            if strict:
                pool.shutdown(wait=False, cancel_futures=True)
                raise error
            damaged[i] = str(error)
            bad.append(Skipped.because(pictures.pictures[i], error))
    if bad:
        which = counted(len(bad), "picture is", "pictures are")
        screen.warn(f"{which} damaged and left out, first {bad[0].path}: {bad[0].reason}")
    return replace(pictures, decoded=packed), bad
