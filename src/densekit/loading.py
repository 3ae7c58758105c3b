"""A classifier from where it is kept: a run folder, an export, the Hugging Face Hub."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.preprocessing import Preprocessing
from densekit.engine.swap import fuse_where_faster
from densekit.errors import CheckpointError, SettingsError
from densekit.hardware import choose_precision
from densekit.models.answers import check_names
from densekit.models.hub import HUB, fetch_hub
from densekit.models.weights import load_model, read_record
from densekit.runtimes.exported import ExportedNetwork, find_runtime, open_exported


def load_classifier(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    fused: bool = False,
    screen: Screen | None = None,
) -> Classifier:
    """Load a classifier: from a run folder, any folder with model.json and model.safetensors, an export, or the Hub.

    Opening an export to torch or Keras can run code that somebody put into its file: load only one that you trust.
    From the Hub they are not opened. Nothing in the others is run.

    Args:
        source: the folder, a file in it, or ``hf-hub:owner/name`` (as `push` uploads it), which is downloaded once.
        device: where to compute.
        precision: what to compute in: "fp32", "bf16", "fp16", or "auto": bf16 where the hardware computes in it.
        fused: let dense blocks run fused where that is faster; the first time on a machine this compiles for some 15 s.
        screen: where the progress of a download goes.

    Raises:
        CheckpointError: a file is missing or damaged, or holds a network without classes.
        SettingsError: no such device, no such precision there, or another than its own for an exported network.
        MissingPartError: it was exported for a runtime that is not installed.
    """
    folder = classifier_folder(source, screen)
    record = read_record(folder)
    if "export" in record:
        network = open_exported(folder, record["export"])
    else:
        network, record = load_model(folder)
    try:
        classes, preprocessing = check_names(record.pop("classes")), record.pop("preprocessing")
    except KeyError:
        raise CheckpointError(
            f"{folder / 'model.json'} holds a bare network: a classifier also needs classes and preprocessing"
        ) from None
    except SettingsError as error:
        raise CheckpointError(f"{folder / 'model.json'}: {error}") from None
    try:
        preprocessing = Preprocessing.model_validate(preprocessing)
        temperature = float(record.pop("temperature", 1.0))
        multilabel = bool(record.pop("multilabel", False))
        thresholds = record.pop("thresholds", None)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("preprocessing", *first["loc"])))
        raise CheckpointError(f"{folder / 'model.json'}: {name}: {first['msg']}") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'model.json'}: temperature: {error}") from None
    architecture = getattr(network, "architecture", None) or record.get("architecture", {})
    answers = architecture.get("options", {}).get("num_classes", len(classes))
    if answers != len(classes):
        raise CheckpointError(f"{folder / 'model.json'} names {len(classes)} classes, but the network has {answers}")
    try:
        several = {"multilabel": multilabel, "thresholds": thresholds}
        classifier = Classifier(network, classes, preprocessing, record, temperature, **several)
    except SettingsError as error:
        raise CheckpointError(f"{folder / 'model.json'}: {error}") from None
    classifier.to(device)
    if fused:
        fuse_where_faster(network)
    if not isinstance(network, ExportedNetwork):
        return replace(classifier, precision=choose_precision(precision, classifier.device))
    if precision not in ("auto", "fp32"):
        raise SettingsError(
            f"{folder} is exported and computes in its own precision: precision {precision!r} is for runs"
        )
    return replace(classifier, precision="own")


def classifier_folder(source: str | os.PathLike[str], screen: Screen | None = None) -> Path:
    """Return the folder of a classifier that is named by that, by a file in it such as model.onnx, or on the Hub.

    Raises:
        CheckpointError: a repository of the Hub that cannot be downloaded, or an export that could run code there.
    """
    if repository := _on_hub(source):
        folder = fetch_hub(repository, screen or Screen())
        _refuse_code(folder)
        return folder
    path = Path(source).expanduser()
    if not path.is_file():
        return path
    if not (path.parent / "model.json").exists():
        raise CheckpointError(
            f"{path}: there is no model.json beside it, which names its classes: name the whole folder"
        )
    return path.parent


def _refuse_code(folder: Path) -> None:
    """Raise CheckpointError where a stranger's model.json names a file that can run code when it is opened."""
    export = read_record(folder).get("export")
    if export and find_runtime(export).runs_code:
        raise CheckpointError(
            f"opening {find_runtime(export).file} can run code, so it is not taken from the hub: download it, and name "
            "its folder if you trust it"
        )


def fingerprint(folder: Path) -> str:
    """Return a hash of the files that a classifier consists of, also of an export.

    It tells whether figures that were measured once are those of what lies in the folder now.

    Raises:
        CheckpointError: there is no classifier.
    """
    export = read_record(folder).get("export")
    runtime = find_runtime(export) if export else None
    files = ["model.json", *(("model.safetensors",) if runtime is None else (runtime.file, *runtime.beside))]
    digests = []
    for name in files:
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digests.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]


def results_folder(source: str | os.PathLike[str]) -> Path:
    """Return where results about a classifier go: its folder, or for one of the Hub a folder of its name below runs.

    >>> results_folder("hf-hub:me/cats@v2")
    PosixPath('runs/me--cats')
    """
    if repository := _on_hub(source):
        return Path("runs", repository.partition("@")[0].replace("/", "--"))
    return classifier_folder(source)


def _on_hub(source: str | os.PathLike[str]) -> str | None:
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise TypeError(f"a run is named by its folder, not by a {kind}: classifier.save(folder) makes one of your own")
    name = Path(source).as_posix()
    return name.removeprefix(HUB) if name.startswith(HUB) else None
