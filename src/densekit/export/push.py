"""push: a classifier's folder to the Hugging Face Hub."""

import os
from fnmatch import fnmatchcase

from densekit.console import Screen
from densekit.errors import ExportError, SettingsError
from densekit.evaluation.results import read_metrics
from densekit.export.card import model_card
from densekit.loading import classifier_folder, load_classifier

# the classifier, and what tells how it came to be; other files name folders of this computer, or show pictures
_TRAVELS = ("model.*", "model-*", "config.json", "comparison.json", "README.md", "LICENSE*")
_FIGURES = ("history.csv", "curves.png", "confusion.csv", "confusion.png", "labels.png")
_LOADING = """\
```python
import densekit

classifier = densekit.load("FOLDER")  # this repository, downloaded
classifier.predict(["picture.jpg"])[0].{answer}
```"""


def push(
    folder: str | os.PathLike[str], repository: str, *, private: bool = False, screen: Screen | None = None
) -> str:
    """Upload a run folder or an exported folder to the Hub, in one commit.

    The classifier goes along, with its card, license, history, curves and confusion matrix. Whatever else lies there
    stays: settings and lists name folders of this computer, reports show pictures. A folder without a README.md gets a
    model card there. The token is the one of `hf auth login`, or the environment's HF_TOKEN; HF_ENDPOINT names another
    hub.

    Args:
        folder: what to upload.
        repository: ``"owner/name"``; made if it is not there.
        private: make it private, if it is made.
        screen: where progress goes.

    Returns:
        Where it can be seen.

    Raises:
        CheckpointError: the folder holds no classifier.
        SettingsError: no repository can have that name.
        ExportError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] (of whichever HTTP library it uses)
    )

    screen = screen or Screen()
    folder, api = classifier_folder(folder, screen), HfApi()
    classifier = load_classifier(folder, device="cpu")
    files = sorted(path for path in folder.iterdir() if path.is_file() and _travels(path.name))
    operations = [CommitOperationAdd(path.name, path) for path in files]
    card, metrics = folder / "README.md", folder / "metrics.json"
    if card.exists() and metrics.exists() and card.stat().st_mtime < metrics.stat().st_mtime:
        screen.warn(f"{card} is older than {metrics}: the figures in it may be others")
    if not card.exists():
        text = model_card(
            classifier,
            read_metrics(folder, screen),
            use=_LOADING.format(answer="labels" if classifier.multilabel else "label"),
        )
        operations.append(CommitOperationAdd("README.md", text.encode()))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        screen.say(f"uploading to {api.endpoint}/{repository}: {', '.join(each.path_in_repo for each in operations)}")
        return str(api.create_commit(repository, operations, commit_message="Upload with densekit").repo_url)
    except HFValidationError:
        raise SettingsError(f"{repository!r} is not a repository name: use owner/name") from None
    except HfHubHTTPError as error:
        raise ExportError(f"{api.endpoint} refuses {repository}: {_reason(error)}") from None
    except (HTTPError, OSError) as error:  # no network, or no such host
        raise ExportError(f"cannot reach {api.endpoint}: {error}") from None


def _travels(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _TRAVELS + _FIGURES)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return "log in with a token that may write there: hf auth login, or HF_TOKEN"
    return str(error).strip().splitlines()[0]
