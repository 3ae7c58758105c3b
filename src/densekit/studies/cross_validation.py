"""cross_validate: every picture is tested once, by a network that was trained without it."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.splits import number_groups
from densekit.errors import CheckpointError, SettingsError
from densekit.evaluation.evaluate import Evaluation, evaluate
from densekit.evaluation.metrics import Metrics, compute_metrics
from densekit.evaluation.multilabel import MultilabelMetrics, compute_multilabel_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.own_data import own_data
from densekit.evaluation.results import read_metrics, write_evaluation
from densekit.files import alone_in, new_folder, refuse_used, write_csv
from densekit.studies.results import Spread
from densekit.studies.runs import fitting_network, train_or_resume
from densekit.studies.study_folder import StudyFolder, write_yaml
from densekit.training.settings import TrainSettings, make_settings, read_mapping
from densekit.training.train import from_anywhere
from densekit.units import in_shell


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """A finished cross-validation.

    Args:
        folder: with the figures, and an ordinary run folder of each fold in runs/.
        metrics: of all pictures together.
        folds: the evaluation of each fold, in order.
    """

    folder: Path
    metrics: Metrics | MultilabelMetrics
    folds: list[Evaluation]

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        figures = f"accuracy {self.metrics.accuracy:.2%} on {self.metrics.pictures} pictures"
        return f"CrossValidation({len(self.folds)} folds: {figures}, in {self.folder})"

    @property
    def spread(self) -> Spread:
        """Mean and standard deviation of the folds' scores: accuracy, or mean average precision of several labels."""
        spread = Spread.of(fold.metrics.score for fold in self.folds)
        assert spread is not None
        return spread


def cross_validate(
    data: str | Path | None = None,
    *,
    folds: int | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    screen: Screen | None = None,
    **settings: Any,
) -> CrossValidation:
    """Estimate how well training does on pictures of which there are few.

    The training pictures are cut into equal parts, stratified by class and with groups kept whole. A network is trained
    for each part, on all the others (of which it has validation pictures cut off, where the data has none of its own),
    and tested on that part. Test pictures that the data names are left alone.

    Args:
        data: as for `densekit.train`.
        folds: how many parts [5].
        recipe: name or YAML file of settings to start from.
        out: folder to make [studies/DATA-cross-validation].
        resume: go on with the one in ``out``: finished folds stay as they are, one that was stopped goes on.
        screen: where progress goes.
        settings: fields of `densekit.training.settings.TrainSettings`.

    Returns:
        The figures; the folder holds metrics.json, predictions.csv (with the fold that each picture was tested in) and
        what else `densekit.evaluate` writes, and the run folders in runs/.

    Raises:
        DensekitError: a setting, the data or the folder cannot be used, or training diverged; the message says why.
        KeyboardInterrupt: Ctrl-C; everything is saved and ``resume`` goes on.
    """
    screen = screen or Screen()
    if resume:
        if data is not None or folds is not None or recipe is not None or settings:
            raise SettingsError("resume takes everything from study.yaml: leave out the rest")
        folder, base, folds = _reopen(out)
    else:
        refuse_used(out, resumable=True)  # before the data is looked at, which may take minutes
        folds = 5 if folds is None else folds
        base = _new_settings(from_anywhere(data, settings, recipe), folds, screen)
        default = Path("studies") / f"{Path(base.data).stem}-cross-validation"
        folder = StudyFolder(new_folder(out, default, resumable=True))
    try:
        with alone_in(folder.path):
            write_yaml(folder.plan, {"settings": base.model_dump(mode="json"), "folds": folds})
            evaluations = list(_test_folds(folder, base, folds, screen))
            metrics = _write(folder.path, evaluations, base.data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with densekit cross-validate --out {in_shell(folder.path)} --resume") from None
    return CrossValidation(folder.path, metrics, evaluations)


def _new_settings(given: dict[str, Any], folds: int, screen: Screen) -> TrainSettings:
    """Check settings and data; the network, where it is left open, follows from these."""
    if folds < 2:
        raise SettingsError(f"folds={folds}: give 2 or more")
    base = make_settings(**given)
    if "data" not in given:
        raise SettingsError("no pictures named: give a folder, a table, or a name such as digits or cifar10")
    if base.fold is not None:
        raise SettingsError("fold: cross-validation tests on every part")
    if base.thresholds != "half":
        raise SettingsError("thresholds=f1: thresholds are one network's, and every fold has its own: leave them out")
    dataset = open_chosen(base.model_copy(update={"fold": f"1/{folds}"}), screen=screen)
    return base.model_copy(update={"model": fitting_network(base, dataset, screen).model})


def _reopen(out: str | Path | None) -> tuple[StudyFolder, TrainSettings, int]:
    if out is None:
        raise SettingsError("resume needs the folder of the cross-validation: --out FOLDER --resume")
    folder = StudyFolder(Path(out).expanduser())
    values = read_mapping(folder.plan, CheckpointError)
    if not (values.keys() == {"settings", "folds"} and isinstance(values["folds"], int)):
        raise CheckpointError(f"{folder.path} is not the folder of a cross-validation")
    return folder, make_settings(**values["settings"]), values["folds"]


def _test_folds(folder: StudyFolder, base: TrainSettings, folds: int, screen: Screen) -> Iterator[Evaluation]:
    for number in range(1, folds + 1):
        run = folder.run(f"fold{number}")
        if not _is_tested(run):
            screen.say(f"fold {number} of {folds}")
            train_or_resume(run, base.model_copy(update={"fold": f"{number}/{folds}"}), screen)
        yield evaluate(run, device=base.device, workers=base.workers, screen=screen)


def _is_tested(run: Path) -> bool:
    own = own_data(run)
    return own is not None and own.unfinished is None and read_metrics(run, Screen(quiet=True)) is not None


def _write(folder: Path, folds: Sequence[Evaluation], data: str) -> Metrics | MultilabelMetrics:
    """Write the figures of all folds together."""
    classifier = folds[0].classifier
    together = Outcomes(
        torch.cat([fold.outcomes.logits for fold in folds]),
        torch.cat([fold.outcomes.labels for fold in folds]),
        torch.cat([fold.outcomes.index for fold in folds]),
        tuple(skipped for fold in folds for skipped in fold.outcomes.unreadable),
    )
    compute = compute_multilabel_metrics if classifier.multilabel else compute_metrics
    metrics = compute(together, classifier.classes, split="test", groups=_groups(folds))
    scores = [fold.metrics.score for fold in folds]
    about = {"data": data, "model": classifier.model, "computed_in": classifier.precision, "folds": scores}
    write_evaluation(folder, metrics, about)
    rows: list[dict[str, Any]] = []
    for number, fold in enumerate(folds, start=1):
        with (fold.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows += ({"fold": number, **row} for row in csv.DictReader(file))
    write_csv(folder / "predictions.csv", rows[0], rows)
    return metrics


def _groups(folds: Sequence[Evaluation]) -> np.ndarray | None:
    """Number the groups of the pictures that were tested, one fold behind the other; None without groups."""
    if all(fold.pictures.groups is None for fold in folds):
        return None
    names = [
        np.full(len(fold.outcomes), None) if fold.pictures.groups is None else fold.pictures.groups[fold.outcomes.index]
        for fold in folds
    ]
    return number_groups(np.concatenate(names))
