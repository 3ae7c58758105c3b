"""evaluate: a trained classifier's honest figures on pictures it has not learned from."""

import json
import os
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.datasets import open_labelled
from densekit.data.downloads import NAMED_SETS
from densekit.data.duplicates import Pictures, find_duplicates
from densekit.data.loaders import Workers, evaluation_loader
from densekit.data.picture_set import DataSet, PictureSet, before_pictures
from densekit.data.split_record import SplitRecord, tell_learned_groups
from densekit.data.splits import number_groups
from densekit.engine.swap import fuse_where_faster
from densekit.errors import DataError, SettingsError, UnknownNameError
from densekit.evaluation.metrics import Metrics, compute_metrics
from densekit.evaluation.multilabel import MultilabelMetrics, compute_multilabel_metrics
from densekit.evaluation.outcomes import Outcomes, collect_outcomes
from densekit.evaluation.own_data import OwnData, learned_before, open_own_data, own_data
from densekit.evaluation.results import write_evaluation, write_predictions
from densekit.files import check_writable, whole_path
from densekit.loading import classifier_folder, load_classifier, results_folder
from densekit.units import counted, in_shell


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
    run: str | os.PathLike[str],
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
            ``hf-hub:owner/name``.
        data: other pictures than those the run was trained with, with the same class names: a folder, a CSV or a
            name. Their test split is used, or all of them where they name no splits.
        split: of the run's own data: "test", or "val" or "train" to look closer.
        out: where to write [the run folder; RUN/evaluation-NAME for another split or other data; of a classifier of
            the Hub in a folder of its name here].
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
    results, run = results_folder(run), classifier_folder(run, screen)
    classifier = load_classifier(run, device=device, precision=precision)
    own = own_data(run)
    if own is not None and own.unfinished:
        screen.warn(
            f"training was stopped after {own.unfinished}: densekit train --out {in_shell(run)} --resume goes on"
        )
    dataset = None
    if data is None or (own is not None and _same(data, own.name)):
        dataset, pictures = _own_split(run, own, classifier, split, data_root, strict, screen)
        source, name = (own.name if own else ""), split
    elif split != "test":
        raise SettingsError(f"split={split} is for the run's own data: of {data}, the test split or everything is used")
    else:
        pictures = open_labelled(
            data,
            classes=classifier.classes,
            multilabel=classifier.multilabel,
            data_root=data_root,
            strict=strict,
            screen=screen,
        )
        source = str(data) if str(data) in NAMED_SETS else whole_path(str(data))
        split, name = pictures.split, Path(data).stem
    # the run's own test figures, and those of other pictures, are never overwritten by others
    own_test = dataset is not None and split == "test"
    folder = Path(out).expanduser() if out else run if own_test else _folder(results / f"evaluation-{name}", source)
    about = {"data": source, "model": classifier.model, "computed_in": classifier.precision}
    if out:
        about["run"] = str(run.resolve())
        _check_free(folder, about)
        if folder.resolve() == run.resolve() and not own_test:
            raise SettingsError(f"{folder} is for the run's own test figures: choose another --out")
    check_writable(folder)
    loader = evaluation_loader(
        pictures,
        classifier.preprocessing,
        classifier.batch_size(batch_size),
        workers=workers,
        strict=strict,
    )
    fuse_where_faster(classifier.network)
    with screen.bar(f"evaluating on {split}", len(loader), "batches") as bar:
        outcomes = collect_outcomes(
            classifier.network, loader, device=classifier.device, autocast=classifier.autocast, bar=bar
        )
    classifier.check_logits(outcomes.logits)
    outcomes = outcomes.as_answered_by(classifier)
    if not len(outcomes):
        raise DataError(f"{source}: none of the {len(pictures)} {split} pictures can be read")
    compute = compute_multilabel_metrics if classifier.multilabel else compute_metrics
    groups = None if pictures.groups is None else number_groups(pictures.groups[outcomes.index.numpy()])
    metrics = compute(outcomes, classifier.classes, split=split, groups=groups)
    write_evaluation(folder, metrics, about)
    write_predictions(folder / "predictions.csv", outcomes, pictures, classifier.classes)
    if outcomes.unreadable:
        which = counted(len(outcomes.unreadable), "picture", "pictures")
        screen.warn(f"{which} left out, first {outcomes.unreadable[0]}")
    if own is not None and split != "train":
        before = learned_before(own.weights)
        _tell_duplicates(before.pictures, pictures, screen, f"what {own.weights} was trained on")
        tell_learned_groups(str(own.weights), before.groups, pictures, screen)
    if dataset is not None and split != "train":
        _tell_duplicates(dataset.train.pictures, pictures, screen)
    elif dataset is None and own is not None and own.record is not None:
        _tell_learned(run, own.name, SplitRecord(own.record), Path(source), pictures, screen)
    return Evaluation(metrics, outcomes, pictures, folder, classifier, dataset)


def _tell_learned(run: Path, name: str, record: SplitRecord, data: Path, tested: PictureSet, screen: Screen) -> None:
    """Warn where pictures that are not the run's own, or seem not to be, are what it learned from all the same."""
    there = Path(name).exists()
    learned = record.learned(Path(name) if there else data)
    tell_learned_groups("the run", learned.groups, tested, screen)
    if there:
        _tell_duplicates(learned.pictures, tested, screen)
    elif moved := sum(path.exists() for path in learned.pictures):
        which = counted(moved, "picture in it has", "pictures in it have")
        screen.warn(
            f"{name} is gone, and {which} the name of one that the run was trained on: if its data moved to {data}, "
            f"densekit train {in_shell(data)} --out {in_shell(run)} --resume updates the run, and "
            f"densekit evaluate {in_shell(run)} tests it honestly"
        )


def _tell_duplicates(
    learned: Pictures, tested: PictureSet, screen: Screen, what: str = "the training pictures"
) -> None:
    if duplicates := find_duplicates(learned, tested.pictures):
        which = counted(len(duplicates), "picture is", "pictures are")
        one, other = duplicates[0]
        screen.warn(
            f"{which} among {what} too, byte for byte, which flatters these figures; first "
            f"{tested.name(other)} = {f'train/{one}' if isinstance(learned, np.ndarray) else learned[one]}"
        )


def _folder(wanted: Path, source: str) -> Path:
    """Return ``wanted``, or that with a number behind it: the first that is free or has the figures of this source."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    return next(folder for folder in chain([wanted], numbered) if _figures(folder).get("data", source) == source)


def _check_free(folder: Path, about: dict[str, str]) -> None:
    """Raise SettingsError where the figures of other pictures or of another run are."""
    there = _figures(folder)
    for name, kind in (("data", "other pictures"), ("run", "another run")):
        if there.get(name, about[name]) != about[name]:
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
    run: Path,
    own: OwnData | None,
    classifier: Classifier,
    split: str,
    data_root: str | None,
    strict: bool,
    screen: Screen,
) -> tuple[DataSet, PictureSet]:
    if own is None:
        raise DataError(f"{run} does not say what it was trained with: name the pictures, evaluate RUN DATA")
    if split not in {"train", "val", "test"}:
        raise UnknownNameError("split", split, ["train", "val", "test"])
    dataset = open_own_data(own, classifier, data_root=data_root, strict=strict, screen=screen)
    pictures: PictureSet | None = getattr(dataset, split)
    if pictures is None:
        raise DataError(f"{own.name} has no {split} pictures: name others, evaluate RUN DATA")
    return dataset, pictures
