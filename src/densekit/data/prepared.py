"""Batches of pictures that somebody wants an answer about, prepared for a network."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import PIL.Image
from torch import Tensor

from densekit.data.images import Picture, each_image, to_picture
from densekit.data.pictures import convert_picture, read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.errors import PictureError

PreparedBatch = tuple[list[Path], list[Tensor | PictureError]]
"""Files, each with its prepared picture (C, H, W), or why it cannot be read."""


def prepare_files(files: Iterable[Path], preprocessing: Preprocessing, batch_size: int) -> Iterator[PreparedBatch]:
    """Yield batches of files; the next one is read while the network computes."""
    remaining = iter(files)
    with ThreadPoolExecutor() as pool:

        def begin_next() -> tuple[list[Path], Iterator[Tensor | PictureError]]:
            chunk = list(islice(remaining, batch_size))
            readers = [partial(read_picture, path) for path in chunk]
            return chunk, pool.map(partial(_prepare, preprocessing), readers)

        chunk, pixels = begin_next()
        while chunk:
            ready = chunk, list(pixels)
            chunk, pixels = begin_next()
            yield ready


def prepare_images(
    images: Picture | Iterable[Picture], preprocessing: Preprocessing, batch_size: int
) -> Iterator[PreparedBatch]:
    """Yield batches of pictures in memory, named by their numbers.

    Raises:
        TypeError: see `each_image` and `to_picture`.
    """
    numbered = enumerate(each_image(images))
    while chunk := list(islice(numbered, batch_size)):
        readers = [partial(convert_picture, to_picture(image), str(number)) for number, image in chunk]
        yield [Path(str(number)) for number, _ in chunk], [_prepare(preprocessing, reader) for reader in readers]


def _prepare(preprocessing: Preprocessing, read: Callable[[], PIL.Image.Image]) -> Tensor | PictureError:
    try:
        return preprocessing(read())
    except PictureError as error:
        return error
