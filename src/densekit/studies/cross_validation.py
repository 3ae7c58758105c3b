"""cross_validate: every picture is tested once, by a network that was trained without it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.picture_set import DataSet
from densekit.data.splits import number_groups
from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.evaluation.evaluate import Evaluation, evaluate
from densekit.evaluation.metrics import Metrics, compute_metrics
from densekit.evaluation.multilabel import MultilabelMetrics, compute_multilabel_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.own_data import own_data
from densekit.evaluation.results import prediction_rows, write_evaluation
from densekit.files import alone_in, new_folder, refuse_used, write_csv
from densekit.studies.results import Spread
from densekit.studies.runs import fitting_network, train_or_resume
from densekit.studies.study_folder import StudyFolder, write_yaml
from densekit.training.run_folder import RunFolder
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
        folder, plan = _reopen(out)
        if _pictures(open_chosen(plan.of_fold(1), screen=screen)) != plan.pictures:
            raise DataError(
                f"{plan.settings.data}: the pictures or their labels are not those that {folder.path} began with, so "
                "that the folds would be others: begin anew, with another --out"
            )
    else:
        refuse_used(out, resumable=True)  # before the data is looked at, which may take minutes
        plan = _new_plan(from_anywhere(data, settings, recipe), 5 if folds is None else folds, screen)
        default = Path("studies") / f"{Path(plan.settings.data).stem}-cross-validation"
        folder = StudyFolder(new_folder(out, default, resumable=True))
    try:
        with alone_in(folder.path):
            write_yaml(folder.plan, plan.to_dict())
            evaluations = list(_test_folds(folder, plan, screen))
            metrics = _write(folder.path, evaluations, plan.settings.data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with densekit cross-validate --out {in_shell(folder.path)} --resume") from None
    return CrossValidation(folder.path, metrics, evaluations)


@dataclass(frozen=True)
class _Plan:
    """What study.yaml holds; ``pictures`` stands for those that are cut into folds."""

    settings: TrainSettings
    folds: int
    pictures: str

    def of_fold(self, number: int) -> TrainSettings:
        return self.settings.model_copy(update={"fold": f"{number}/{self.folds}"})

    def to_dict(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json"), "folds": self.folds, "pictures": self.pictures}


def _new_plan(given: dict[str, Any], folds: int, screen: Screen) -> _Plan:
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
    base = base.model_copy(update={"limit_test_per_class": None})  # a recipe's: every picture is tested
    dataset = open_chosen(base.model_copy(update={"fold": f"1/{folds}"}), screen=screen)
    base = base.model_copy(update={"model": fitting_network(base, dataset, screen).model})
    return _Plan(base, folds, _pictures(dataset))


def _reopen(out: str | Path | None) -> tuple[StudyFolder, _Plan]:
    if out is None:
        raise SettingsError("resume needs the folder of the cross-validation: --out FOLDER --resume")
    folder = StudyFolder(Path(out).expanduser())
    values = read_mapping(folder.plan, CheckpointError)
    if not (values.keys() == {"settings", "folds", "pictures"} and isinstance(values["folds"], int)):
        raise CheckpointError(f"{folder.path} is not the folder of a cross-validation")
    return folder, _Plan(make_settings(**values["settings"]), values["folds"], values["pictures"])


def _pictures(dataset: DataSet) -> str:
    """Return a hash of the names and labels of all pictures, from which the folds follow."""
    parts = [part for part in (dataset.train, dataset.val, dataset.test) if part is not None]
    lines = sorted(f"{part.name(i)}\0{part.labels[i].tolist()}" for part in parts for i in range(len(part)))
    return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _test_folds(folder: StudyFolder, plan: _Plan, screen: Screen) -> Iterator[Evaluation]:
    for number in range(1, plan.folds + 1):
        run, settings = folder.run(f"fold{number}"), plan.of_fold(number)
        if not _is_trained(run, settings):
            screen.say(f"fold {number} of {plan.folds}")
            train_or_resume(run, settings, screen)
        yield evaluate(run, device=settings.device, workers=settings.workers, screen=screen)


def _is_trained(run: Path, settings: TrainSettings) -> bool:
    if not RunFolder(run).checkpoint.exists():
        return (run / "model.safetensors").exists()  # somebody has made room
    own = own_data(run)
    # where training may stop early, the checkpoint alone knows whether it is over
    return settings.early_stopping is None and own is not None and own.unfinished is None


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
    rows = [
        {"fold": number, **row}
        for number, fold in enumerate(folds, start=1)
        for row in prediction_rows(fold.outcomes, fold.pictures, classifier.classes)
    ]
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
