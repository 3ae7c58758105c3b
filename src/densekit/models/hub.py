"""Repositories of the Hugging Face Hub: a classifier or weights, through the Hub's own client and cache."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from densekit.console import Screen
from densekit.download import check_file
from densekit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

HUB = "hf-hub:"  # timm's prefix of the Hub
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_READ = ("config.json", "model.*", "model-symbol.json", "model-*.params")  # densekit's and timm's, and of exports
_RUNS_CODE = ("*.pt2", "*.keras")
_SHA256 = 64  # hexadecimal digits; what the Hub knows of small text files is git's and shorter


def fetch_hub(repository: str, screen: Screen) -> Path:
    """Return a folder with what is read of a repository; only what is new there is downloaded.

    Where the Hub does not answer, what was downloaded before serves. Files are kept in the cache of the Hub's client,
    which timm and others share.

    Args:
        repository: ``"owner/name"``, or ``"owner/name@revision"`` for a branch, a tag or a commit.
        screen: says where progress goes: nowhere if it is quiet.

    Raises:
        CheckpointError: there is no such repository, it cannot be reached, or a file is not what the Hub says it is.
    """
    name, _, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name):
        raise CheckpointError(f"{HUB}{repository} does not name a repository: write {HUB}OWNER/NAME")
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import tqdm

    class Progress(tqdm):
        def __init__(self, *args: object, **options: object):
            super().__init__(*args, **options | ({"disable": True} if screen.quiet else {}))

    try:
        found = HfApi().model_info(name, revision=revision or None)
        files = _wanted(sibling.rfilename for sibling in found.siblings or ())
        # the first by the name of the revision, so that the cache remembers what that was
        revisions = [revision or None, *[found.sha] * len(files)]
        paths = [
            Path(hf_hub_download(name, file, revision=at, tqdm_class=Progress))
            for file, at in zip(files, revisions, strict=False)
        ]
    except RepositoryNotFoundError:
        raise CheckpointError(f"the hub has no {name}, or it is private: HF_TOKEN would open it") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{name} on the hub has no revision {revision!r}") from None
    except Exception as error:  # of whichever HTTP library the Hub's client uses
        if folder := _downloaded_before(name, revision or None):
            return folder
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        told = "put its files into a folder and name that"
        raise CheckpointError(f"cannot download {repository} ({reason}): {told}") from None
    if not paths:
        raise CheckpointError(f"{repository} on the hub holds neither {' nor '.join(WEIGHT_FILES)}")
    for path in paths:
        _check(path)
    return paths[0].parent


def _downloaded_before(name: str, revision: str | None) -> Path | None:
    """Return the folder of a repository in the cache, or None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    known = (try_to_load_from_cache(name, file, revision=revision) for file in (*WEIGHT_FILES, "model.json"))
    return next((Path(path).parent for path in known if isinstance(path, str)), None)


def _wanted(files: "Iterable[str]") -> list[str]:
    """Choose what to download: no file that runs code when it is opened, and the same weights only once."""
    files = list(files)
    kept = [file for file in files if any(fnmatchcase(file, pattern) for pattern in _READ)]
    kept = [file for file in kept if not any(fnmatchcase(file, pattern) for pattern in _RUNS_CODE)]
    return kept if WEIGHT_FILES[0] in kept else [*kept, *(file for file in files if file == WEIGHT_FILES[1])]


def _check(path: Path) -> None:
    """Compare a file with its SHA-256, which is what the cache calls it."""
    content = path.resolve()
    if len(content.name) != _SHA256:
        return
    try:
        check_file(content, f"sha256:{content.name}")
    except OSError as error:
        content.unlink(missing_ok=True)  # else it would be taken for the right one next time
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path.name} came damaged from the hub ({error}): try again") from None
