"""densekit embed."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from densekit.cli.options import Device, Precision, Quiet
from densekit.cli.predict import MANY_PICTURES


def embed(
    run: Path,
    /,
    *images: str,
    out: Annotated[Path, Parameter(help="NumPy file to create: paths (N,) and embeddings, float32 (N, D).")],
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "fp32",
    quiet: Quiet = False,
) -> int:
    """Write what the last layer of a network reads of pictures: vectors that are near where pictures look alike.

    For finding similar pictures, clustering and plotting. Exit status 2 only if no picture can be read.

    Parameters
    ----------
    run
        Run folder or hf-hub:OWNER/NAME.
    images
        Picture files, folders and patterns.
    batch_size
        Pictures per batch.
    """
    import numpy as np

    from densekit.console import Screen
    from densekit.data.find_pictures import find_pictures
    from densekit.errors import DataError, SettingsError
    from densekit.files import check_writable, write_atomically
    from densekit.loading import load_classifier
    from densekit.units import counted

    if not images:
        raise DataError("no pictures named: densekit embed RUN IMAGE... --out FILE.npz takes files, folders, patterns")
    if out.suffix != ".npz" or out.exists():
        why = "exists already" if out.exists() else "is no .npz file"
        raise SettingsError(f"{out} {why}: choose another --out")
    check_writable(out.parent)
    screen = Screen(quiet=quiet)
    files = find_pictures(images)
    many = len(files) > MANY_PICTURES
    classifier = load_classifier(run, device=device, precision=precision, fused=many, screen=screen)
    with screen.bar("embedding", len(files)) as bar:
        found = classifier.embed(files, batch_size=batch_size, bar=bar)
    if found.unreadable:
        path, reason = next(iter(found.unreadable.items()))
        screen.warn(f"{len(found.unreadable)} of {len(files)} pictures could not be read, first {path}: {reason}")
    if not found.paths:
        return 2
    paths, vectors = np.array(found.paths), found.vectors.numpy()
    write_atomically(out, lambda path: np.savez(path, paths=paths, embeddings=vectors))
    number, width = vectors.shape
    print(f"{out}: {counted(number, 'vector', 'vectors')} of {width} values")
    return 0
