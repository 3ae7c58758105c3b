"""study: the same training with one thing changed at a time, several seeds each, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.picture_set import DataSet
from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.files import alone_in, new_folder, refuse_used
from densekit.studies.named_studies import named_study
from densekit.studies.plan import Plan, is_plan_file, make_plan, read_plan, vary
from densekit.studies.results import Result, Summary, best_variants, measure_of, results_table, summarise
from densekit.studies.runs import compared_on, fitting_network, network_cost, train_missing
from densekit.studies.study_folder import StudyFolder, write_yaml
from densekit.training.settings import make_settings
from densekit.training.train import from_anywhere
from densekit.units import in_shell


@dataclass(frozen=True, eq=False)
class Study:
    """A finished study."""

    folder: Path
    plan: Plan
    results: list[Result]
    val_pictures: int

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        return f"Study({self.folder}: {len(self.plan.variants)} variants, {len(self.results)} runs)"

    def summaries(self) -> list[Summary]:
        """Return mean and deviation of each variant."""
        return summarise(self.results, self.plan.variants)

    def table(self) -> Table:
        """Return the table for a terminal."""
        summaries = self.summaries()
        best = best_variants(summaries)
        over = f"mean ± standard deviation over {self.plan.seeds} seeds" if self.plan.seeds > 1 else "a single seed"
        caption = f"{over}; val {measure_of(summaries)}: of the kept epoch, on {self.val_pictures} pictures"
        if best:
            caption += f"; highest: {' and '.join(summary.variant for summary in best)}"
        return results_table(summaries, caption)


def study(
    data: str | Path | None = None,
    what: str | Path | None = None,
    *,
    choices: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | None = None,
    test: bool | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    screen: Screen | None = None,
    **settings: Any,
) -> Study:
    """Train variants of a network, several seeds each, and compare them.

    The validation accuracy of the kept epoch is what is compared, or its mean average precision where pictures may have
    several labels; the test split is only looked at if ``test`` says so.
    A run whose loss explodes is noted as failed, and the study goes on.

    Args:
        data: as for `densekit.train`.
        what: a name from `densekit.studies.named_studies.NAMED_STUDIES`, or a YAML file with the entries of
            `densekit.studies.plan.Plan`.
        choices: a setting, or an option of the network -> values to try; all combinations are.
        seeds: runs of each variant, with seed, seed + 1, ... [3].
        test: also test each trained network [no].
        recipe: name or YAML file of settings to start from.
        out: folder to make [studies/DATA-WHAT].
        resume: go on with the study in ``out``: finished runs stay as they are, one that was stopped goes on. More
            ``seeds`` may be asked for, or ``test``.
        screen: where progress goes.
        settings: fields of `densekit.training.settings.TrainSettings` that all variants share.

    Returns:
        The study; its folder holds study.yaml, results.csv, study.png, and the run folders in runs/.

    Raises:
        DensekitError: a setting, the data or the folder cannot be used; the message says why.
        KeyboardInterrupt: Ctrl-C; everything is saved and ``resume`` goes on.
    """
    screen = screen or Screen()
    if resume:
        if data is not None or what is not None or choices or recipe is not None or settings:
            raise SettingsError("resume takes everything but --seeds and --test from study.yaml: leave out the rest")
        folder, plan = _reopen(out)
        dataset = open_chosen(plan.base(), screen=screen)
    else:
        refuse_used(out, resumable=True)  # before the data is looked at, which may take minutes
        plan, dataset = _new_plan(what, choices, recipe, from_anywhere(data, settings), screen)
        folder = StudyFolder(new_folder(out, _default_folder(plan, what), resumable=True))
    asked = {name: value for name, value in {"seeds": seeds, "test": test}.items() if value is not None}
    plan = make_plan(**{**plan.model_dump(), **asked})
    validation = compared_on(dataset)
    if plan.test and dataset.test is None:
        raise DataError(f"{dataset.name} has no test pictures: leave out --test")
    first_of_each = list(plan.runs())[: len(plan.variants)]
    costs = {run.variant: network_cost(run.settings, dataset, screen) for run in first_of_each}  # or nothing is begun
    try:
        with alone_in(folder.path):
            write_yaml(folder.plan, plan.model_dump(mode="json"))
            results = train_missing(folder, plan, costs, screen)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with densekit study --out {in_shell(folder.path)} --resume") from None
    return Study(folder.path, plan, results, len(validation))


def _reopen(out: str | Path | None) -> tuple[StudyFolder, Plan]:
    if out is None:
        raise SettingsError("resume needs the folder of the study: --out STUDY --resume")
    folder = StudyFolder(Path(out).expanduser())
    if not folder.plan.exists():
        raise CheckpointError(f"{folder.path} is not the folder of a study: there is no {folder.plan.name} in it")
    return folder, read_plan(folder.plan)


def _new_plan(
    what: str | Path | None,
    choices: Mapping[str, Sequence[Any]] | None,
    recipe: str | None,
    given: dict[str, Any],
    screen: Screen,
) -> tuple[Plan, DataSet]:
    """Put a plan together; the network, where it is left open, follows from the data."""
    file = read_plan(Path(what).expanduser()) if what is not None and is_plan_file(what) else None
    if file is not None and choices:
        raise SettingsError(f"{what} has variants of its own: leave out what else to vary")
    base = make_settings(**from_anywhere(None, {**(file.settings if file else {}), **given}, recipe))
    dataset = open_chosen(base, screen=screen)
    base = base.model_copy(update={"model": fitting_network(base, dataset, screen).model})
    shared = base.model_dump(mode="json")
    if file is not None:
        return file.model_copy(update={"settings": shared}), dataset
    choices = {**(named_study(str(what), base) if what is not None else {}), **(choices or {})}
    if not choices:
        raise SettingsError("a study needs something to vary: a name such as growth-rate, or --vary lr=0.03,0.1,0.3")
    return make_plan(settings=shared, variants=vary(choices, base)), dataset


def _default_folder(plan: Plan, what: str | Path | None) -> Path:
    name = Path(what).stem if what is not None else next(iter(plan.variants)).partition("=")[0]
    return Path("studies") / f"{Path(plan.settings['data']).stem}-{name}"
