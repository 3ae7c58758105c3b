"""search: let Optuna choose settings, by their score on validation pictures; machines may share one search."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from rich.table import Table

from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.files import alone_in, new_folder, refuse_used
from densekit.optional import require
from densekit.studies.runs import compared_on, fitting_network, network_cost
from densekit.studies.search_space import SPACES, check_space
from densekit.studies.study_folder import StudyFolder, write_yaml
from densekit.studies.trial_storage import open_trials, quiet_optuna, take_back_running, without_password
from densekit.studies.trial_worker import Worker
from densekit.studies.trials import measure_of, ranked, trials_table
from densekit.training.settings import TrainSettings, make_settings, one_line, read_mapping
from densekit.training.train import from_anywhere
from densekit.units import in_shell

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class SearchPlan(BaseModel):
    """A search; study.yaml holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]  # what all trials share
    space: Literal["small", "default", "densenet"] = "small"
    trials: PositiveInt = 30
    name: str = "densekit"
    storage: str | None = None  # URL without its password; None: trials.sqlite in the folder
    heartbeat: PositiveInt = 60

    def base(self) -> TrainSettings:
        """Return the settings that all trials share."""
        return make_settings(**self.settings)


def make_search_plan(**values: Any) -> SearchPlan:
    """Check a plan; what pydantic finds becomes one line.

    Raises:
        SettingsError: an entry that is unknown or cannot work.
    """
    try:
        return SearchPlan.model_validate(values)
    except ValidationError as error:
        raise SettingsError(one_line(error, SearchPlan)) from None


@dataclass(frozen=True, eq=False)
class Search:
    """A finished search."""

    folder: Path
    plan: SearchPlan
    trials: "list[FrozenTrial]"
    val_pictures: int
    test_score: float | None = None  # of the best trial

    @property
    def best(self) -> "FrozenTrial | None":
        """The trial with the highest validation score."""
        return next(iter(ranked(self.trials)), None)

    def table(self) -> Table:
        """Return the table for a terminal."""
        states = [trial.state.name for trial in self.trials]
        measure = measure_of(self.trials)
        caption = (
            f"{states.count('COMPLETE')} trials ran to their end, {states.count('PRUNED')} were pruned; val {measure}: "
            f"of the kept epoch, on {self.val_pictures} pictures, and flattering, because it was searched for"
        )
        if self.test_score is not None and self.best is not None:
            caption += f"; test {measure} of trial {self.best.number}: {self.test_score:.2%}"
        return trials_table(self.trials, caption)


def search(
    data: str | Path | None = None,
    *,
    space: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    name: str | None = None,
    heartbeat: int | None = None,
    test: bool = False,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    screen: Screen | None = None,
    **settings: Any,
) -> Search:
    """Search settings with a high validation score; trials that fall behind are pruned.

    Any number of workers may share one search: start this with the same ``storage`` and ``name`` on each machine, each
    with an ``out`` of its own. A worker that is killed loses no more than its trial, which another one tries again.

    Args:
        data: as for `densekit.train`.
        space: what is searched, a name from `densekit.studies.search_space.SPACES` [small].
        trials: trials to finish, all workers together [30].
        storage: URL of a database [trials.sqlite in the folder].
        name: of the search in the database [densekit].
        heartbeat: seconds between heartbeats; after three without one a trial counts as lost [60].
        test: also test the network of the best trial; the test split is not looked at before.
        recipe: name or YAML file of settings to start from.
        out: folder to make [studies/DATA-search].
        resume: go on with the search in ``out``; more ``trials`` may be asked for, and a ``storage`` with a password
            must be named again.
        screen: where progress goes.
        settings: fields of `densekit.training.settings.TrainSettings` that all trials share.

    Returns:
        The search; its folder holds study.yaml, results.csv, study.png, best.yaml (a recipe), and run folders in runs/.

    Raises:
        DensekitError: a setting, the data, the storage or the folder cannot be used; the message says why.
        KeyboardInterrupt: Ctrl-C; everything is saved and ``resume`` goes on.
    """
    screen = screen or Screen()
    require("optuna", extra="study")
    asked = {"space": space, "trials": trials, "name": name, "heartbeat": heartbeat}
    chosen = {entry: value for entry, value in asked.items() if value is not None}
    if resume:
        if data is not None or recipe is not None or settings or chosen.keys() - {"trials"}:
            raise SettingsError("resume takes all but --trials, --storage and --test from study.yaml: leave it out")
        folder, plan = _reopen(out, storage)
        dataset = open_chosen(plan.base(), screen=screen)
    else:
        refuse_used(out, resumable=True)  # before the data is looked at, which may take minutes
        base = make_settings(**from_anywhere(data, settings, recipe))
        dataset = open_chosen(base, screen=screen)
        base = base.model_copy(update={"model": fitting_network(base, dataset, screen).model})
        default = Path("studies") / f"{Path(base.data).stem}-search"
        place = None if storage is None else without_password(storage)
        plan = make_search_plan(settings=base.model_dump(mode="json"), storage=place)
        folder = StudyFolder(new_folder(out, default, resumable=True))
    plan = make_search_plan(**{**plan.model_dump(), **chosen})
    validation = compared_on(dataset)
    if test and dataset.test is None:
        raise DataError(f"{dataset.name} has no test pictures: leave out --test")
    with quiet_optuna():
        check_space(plan.space, plan.base(), lambda settings: network_cost(settings, dataset, screen))
    return _carry_out(plan, folder, storage, len(validation), test, screen)


def _carry_out(
    plan: SearchPlan, folder: StudyFolder, storage: str | None, val_pictures: int, test: bool, screen: Screen
) -> Search:
    base = plan.base()
    url, seed = (storage, None) if storage else (f"sqlite:///{folder.database.resolve()}", base.seed)
    opened = open_trials(url, plan.name, seed=seed, warmup=base.epochs // 3, heartbeat=plan.heartbeat)
    try:
        with alone_in(folder.path), quiet_optuna(), opened as trials:
            write_yaml(folder.plan, plan.model_dump(mode="json"))
            if storage is None:  # then nobody else is at work on them
                take_back_running(trials)
            Worker(trials, plan.trials, base, SPACES[plan.space], folder, screen).work()
            found = trials.trials
    except KeyboardInterrupt:
        again = " --storage ..." if storage else ""
        raise KeyboardInterrupt(
            f"go on with densekit study search --out {in_shell(folder.path)} --resume{again}"
        ) from None
    finished = ranked(found)
    tested = _test(folder, finished[0], base.device, screen) if test and finished else None
    return Search(folder.path, plan, found, val_pictures, tested)


def _test(folder: StudyFolder, best: "FrozenTrial", device: str, screen: Screen) -> float | None:
    run = folder.run(best.user_attrs["run"])
    if not run.exists():
        screen.warn(f"the best trial's network is with another worker: test {run.name} there")
        return None
    return evaluate(run, device=device, screen=screen).metrics.score


def _reopen(out: str | Path | None, storage: str | None) -> tuple[StudyFolder, SearchPlan]:
    if out is None:
        raise SettingsError("resume needs the folder of the search: --out STUDY --resume")
    folder = StudyFolder(Path(out).expanduser())
    if not folder.plan.exists():
        raise CheckpointError(f"{folder.path} is not the folder of a search: there is no {folder.plan.name} in it")
    try:
        plan = make_search_plan(**read_mapping(folder.plan, CheckpointError))
    except SettingsError as error:
        raise CheckpointError(f"{folder.plan} does not describe a search: {error}") from None
    if (None if storage is None else without_password(storage)) != plan.storage:
        raise SettingsError(f"the trials are in {plan.storage or folder.database}: resume with the same --storage")
    return folder, plan
