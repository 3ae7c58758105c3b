"""evaluate: a trained classifier's honest figures on pictures it has not learned from."""

import json
import os
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.datasets import open_labelled
from densekit.data.downloads import NAMED_SETS
from densekit.data.loaders import Workers, evaluation_loader
from densekit.data.picture_set import DataSet, PictureSet, before_pictures
from densekit.data.splits import number_groups
from densekit.errors import DataError, SettingsError, UnknownNameError
from densekit.evaluation.leaks import tell_leaks
from densekit.evaluation.metrics import Metrics, compute_metrics
from densekit.evaluation.multilabel import MultilabelMetrics, compute_multilabel_metrics
from densekit.evaluation.outcomes import Outcomes, collect_outcomes
from densekit.evaluation.own_data import OwnData, open_own_data, own_data
from densekit.evaluation.results import write_evaluation, write_predictions
from densekit.files import check_writable, free_path, whole_path
from densekit.loading import classifier_folder, fingerprint, load_classifier, results_folder
from densekit.units import counted


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one evaluation, with what they were computed from.

    Args:
        metrics: the figures.
        outcomes: logits of the pictures, at the classifier's temperature, and labels.
        pictures: what was looked at; ``outcomes.index`` are places in it.
        folder: where the files are.
        classifier: what was tested.
        dataset: all splits of the run's own data; None where other pictures were looked at.
    """

    metrics: Metrics | MultilabelMetrics
    outcomes: Outcomes
    pictures: PictureSet
    folder: Path
    classifier: Classifier
    dataset: DataSet | None

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        split = before_pictures(self.metrics.split)
        figures = f"accuracy {self.metrics.accuracy:.2%} on {self.metrics.pictures} {split}pictures"
        return f"Evaluation({self.classifier.model}: {figures}, in {self.folder})"


def evaluate(
    run: Classifier | str | os.PathLike[str],
    data: str | Path | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    data_root: str | None = None,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    workers: Workers = "auto",
    strict: bool = False,
    screen: Screen | None = None,
) -> Evaluation:
    """Test a classifier and write metrics.json, predictions.csv, confusion.csv and confusion.png.

    A multi-label one has labels.png in place of the last two.

    Args:
        run: run folder, any folder with model.json and model.safetensors, an exported folder or file, or
            ``hf-hub:owner/name``; or a classifier, which stays where it is and in its precision.
        data: other pictures than those the run was trained with, with the same class names: a folder, a CSV or a
            name. Their test split is used, or all of them where they name no splits.
        split: of the run's own data: "test", or "val" or "train" to look closer.
        out: where to write [the run folder; RUN/evaluation-NAME for another split or other data; runs/OWNER--NAME of
            one of the Hub; evaluation-NAME here of a classifier by itself, numbered if it exists].
        data_root: where named data sets are kept [as in training].
        batch_size: pictures at a time.
        device: where to compute.
        precision: what to compute in, see `densekit.loading.load_classifier`; metrics.json says it (`computed_in`).
        workers: processes that load pictures.
        strict: a picture that cannot be read is an error.
        screen: where progress goes.

    Raises:
        CheckpointError: the run cannot be read.
        DataError: there are no such pictures, or a class that the classifier does not know.
        SettingsError: a split was named for other data than the run's own, or ``out`` cannot be written.
    """
    screen = screen or Screen()
    if isinstance(run, Classifier):
        place, results, files, classifier, own = None, Path(), "", run, None
    else:
        results, place = results_folder(run), classifier_folder(run, screen)
        files = fingerprint(place)  # before they are read: a training that is under way may write others
        classifier = load_classifier(place, device=device, precision=precision, fused=True)
        own = own_data(place)
    if own is not None and own.unfinished:
        screen.warn(own.unfinished)
    tested = _choose_pictures(place, own, classifier, data, split, {"data_root": data_root, "strict": strict}, screen)
    about = {"data": tested.source, "model": classifier.model, "computed_in": classifier.precision}
    if place is not None:
        about["classifier"] = files
        about |= {"run": str(place.resolve())} if out else {}
    folder = _choose_folder(place, results, tested, out, about)
    outcomes = _answer(classifier, tested, batch_size, workers, strict, screen)
    compute = compute_multilabel_metrics if classifier.multilabel else compute_metrics
    pictures, groups = tested.pictures, tested.pictures.groups
    groups = None if groups is None else number_groups(groups[outcomes.index.numpy()])
    metrics = compute(outcomes, classifier.classes, split=tested.split, groups=groups)
    write_evaluation(folder, metrics, about)
    write_predictions(folder / "predictions.csv", outcomes, pictures, classifier.classes)
    if outcomes.unreadable:
        which = counted(len(outcomes.unreadable), "picture", "pictures")
        screen.warn(f"{which} left out, first {outcomes.unreadable[0]}")
    if own is not None and place is not None and tested.split != "train":
        tell_leaks(place, own, tested.dataset, pictures, tested.source, screen)
    return Evaluation(metrics, outcomes, pictures, folder, classifier, tested.dataset)


@dataclass(frozen=True)
class _Tested:
    """What is tested on.

    Args:
        pictures: the set.
        split: what it is of its data.
        source: the data, by its whole path or name.
        name: of the folder for the figures.
        dataset: the run's own data, if it is a split of that.
    """

    pictures: PictureSet
    split: str
    source: str
    name: str
    dataset: DataSet | None

    @property
    def is_own_test(self) -> bool:
        """Whether it is the test split of the run's own data."""
        return self.dataset is not None and self.split == "test"


def _choose_pictures(
    run: Path | None,
    own: OwnData | None,
    classifier: Classifier,
    data: str | Path | None,
    split: str,
    how: dict[str, Any],
    screen: Screen,
) -> _Tested:
    """Open a split of the run's own data, or other pictures."""
    if data is None or (own is not None and _same(data, own.name)):
        dataset, pictures = _own_split(run, own, classifier, split, how, screen)
        return _Tested(pictures, split, own.name if own else "", split, dataset)
    if split != "test":
        raise SettingsError(f"split={split} is for the run's own data: of {data}, the test split or everything is used")
    pictures = open_labelled(data, classes=classifier.classes, multilabel=classifier.multilabel, **how, screen=screen)
    source = str(data) if str(data) in NAMED_SETS else whole_path(str(data))
    return _Tested(pictures, pictures.split, source, Path(data).stem, None)


def _choose_folder(
    run: Path | None, results: Path, tested: _Tested, out: str | Path | None, about: dict[str, str]
) -> Path:
    """Return where the figures go; the run's own test figures, and those of other pictures, are never overwritten."""
    if out:
        folder = Path(out).expanduser()
        _check_free(folder, about)
        if run is not None and folder.resolve() == run.resolve() and not tested.is_own_test:
            raise SettingsError(f"{folder} is for the run's own test figures: choose another --out")
    elif run is None:
        folder = free_path(results / f"evaluation-{tested.name}")  # whose figures are there, nobody can tell
    elif tested.is_own_test:
        folder = run
    else:
        folder = _folder(results / f"evaluation-{tested.name}", tested.source)
    check_writable(folder)
    return folder


def _answer(
    classifier: Classifier, tested: _Tested, batch_size: int, workers: Workers, strict: bool, screen: Screen
) -> Outcomes:
    """Return what the classifier answers about the pictures.

    Raises:
        DataError: none of them can be read.
    """
    size = classifier.batch_size(batch_size)
    loader = evaluation_loader(tested.pictures, classifier.preprocessing, size, workers=workers, strict=strict)
    with screen.bar(f"evaluating on {tested.split}", len(loader), "batches") as bar:
        outcomes = collect_outcomes(
            classifier.network, loader, device=classifier.device, autocast=classifier.autocast, bar=bar
        )
    classifier.check_logits(outcomes.logits)
    if not len(outcomes):
        raise DataError(f"{tested.source}: none of the {len(tested.pictures)} {tested.split} pictures can be read")
    return outcomes.as_answered_by(classifier)


def _folder(wanted: Path, source: str) -> Path:
    """Return ``wanted``, or that with a number behind it: the first that is free or has the figures of this source."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    return next(folder for folder in chain([wanted], numbered) if _figures(folder).get("data", source) == source)


def _check_free(folder: Path, about: dict[str, str]) -> None:
    """Raise SettingsError where the figures of other pictures or of another run are."""
    there = _figures(folder)
    if "classifier" not in about and ("classifier" in there or (folder / "model.json").exists()):
        raise SettingsError(f"{folder} is for the figures of a run: choose another --out")
    others = [("data", "other pictures")]
    if there.get("classifier") != about.get("classifier"):  # a run that has moved is still that run
        others.append(("run", "another run"))
    for name, kind in others:
        if name in about and there.get(name, about[name]) != about[name]:
            raise SettingsError(f"{folder} has the figures of {kind} ({there[name]}): choose another --out")


def _figures(folder: Path) -> dict[str, Any]:
    """Return what a folder has the figures of; nothing where there are none."""
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        figures = None
    return figures if isinstance(figures, dict) else {"data": "unknown"}


def _same(one: str | Path, other: str) -> bool:
    return whole_path(str(one)) == whole_path(other)


def _own_split(
    run: Path | None,
    own: OwnData | None,
    classifier: Classifier,
    split: str,
    how: dict[str, Any],
    screen: Screen,
) -> tuple[DataSet, PictureSet]:
    if run is None:
        raise DataError("a classifier by itself has no pictures of its own: name some, evaluate(classifier, data)")
    if own is None:
        raise DataError(f"{run} does not say what it was trained with: name the pictures, evaluate RUN DATA")
    if split not in {"train", "val", "test"}:
        raise UnknownNameError("split", split, ["train", "val", "test"])
    dataset = open_own_data(own, classifier, **how, screen=screen)
    pictures: PictureSet | None = getattr(dataset, split)
    if pictures is None:
        raise DataError(f"{own.name} has no {split} pictures: name others, evaluate RUN DATA")
    return dataset, pictures
