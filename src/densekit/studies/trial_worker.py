"""One worker of a search: takes trials, trains them, prunes those that fall behind."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densekit.console import Screen
from densekit.errors import SettingsError, TrainingError
from densekit.files import write_text
from densekit.optional import require
from densekit.studies.runs import train_or_resume
from densekit.studies.search_space import Space
from densekit.studies.study_folder import StudyFolder
from densekit.studies.trial_storage import fail_lost_trials, try_again
from densekit.studies.trials import draw_trials, ranked, write_trials
from densekit.training.history import measure, score
from densekit.training.settings import TrainSettings, make_settings

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FixedTrial

# what may differ between machines that share a search
_OWN = {"data", "data_root", "device", "precision", "workers", "memory_gib", "log_every", "tensorboard", "accumulate"}


@dataclass
class Worker:
    """Works on the trials of a search until there are enough.

    Args:
        trials: the search, shared or not.
        wanted: trials to finish, all workers together.
        base: settings that all trials share.
        space: changes them.
        folder: where this worker's runs and files go.
        screen: where progress goes.
    """

    trials: "Study"
    wanted: int
    base: TrainSettings
    space: Space
    folder: StudyFolder
    screen: Screen
    current: int | None = None  # number of the trial being worked at

    def work(self) -> None:
        """Take trials until there are enough; files are brought up to date after each.

        Raises:
            SettingsError: others search something else under the same name.
            KeyboardInterrupt: Ctrl-C; the trial is back in the queue, and goes on from its checkpoint.
        """
        self._agree()
        try:
            while self._short_of_trials():
                self._take_trial()
                self.write()
        except KeyboardInterrupt:
            if self.current is not None:
                try_again(self.trials, self.current)
            raise
        self.write()

    def write(self) -> None:
        """Write results.csv and, once there is something to show, the picture and best.yaml."""
        optuna = require("optuna", extra="study")
        trials = self.trials.get_trials(deepcopy=False)
        write_trials(self.folder.results, trials)
        if best := ranked(trials):
            draw_trials(self.folder.plot, trials)
            write_text(self.folder.best, self._settings(optuna.trial.FixedTrial(best[0].params)).to_yaml())

    def _take_trial(self) -> None:
        try:
            self.trials.optimize(self._train, n_trials=1)
        except ValueError as error:
            if "Cannot tell a FAIL trial" not in str(error):
                raise
            # this machine slept, or was cut off: its trial has gone to another worker
            self.screen.warn(f"trial {self.current} was given up while no sign of life came from here")
        self.current = None

    def _agree(self) -> None:
        """Whoever comes first writes down what is searched; the others must search the same."""
        shared = self.base.model_dump(mode="json", exclude=_OWN) | {"space": self.space.__name__}
        agreed = self.trials.user_attrs.get("densekit")
        if agreed is None:
            self.trials.set_user_attr("densekit", shared)
            return
        for name, value in shared.items():
            if agreed.get(name) != value:
                raise SettingsError(
                    f"the search {self.trials.study_name!r} in this storage has {name}={agreed.get(name)!r}, not "
                    f"{value!r}: give the same, or choose another --name"
                )

    def _short_of_trials(self) -> bool:
        fail_lost_trials(self.trials)
        states = Counter(trial.state.name for trial in self.trials.get_trials(deepcopy=False))
        enough = states["COMPLETE"] + states["PRUNED"] + states["RUNNING"] >= self.wanted
        if enough and states["RUNNING"]:
            self.screen.say(f"enough trials: {states['RUNNING']} still running in other workers, if those are alive")
        return not enough

    def _settings(self, trial: "Trial | FixedTrial") -> TrainSettings:
        return make_settings(**{**self.base.model_dump(), **self.space(trial, self.base)})

    def _train(self, trial: "Trial") -> float:
        """The objective: validation score of the kept epoch."""
        optuna = require("optuna", extra="study")
        self.current = trial.number
        name = trial.user_attrs.get("run", f"trial-{trial.number:04}")  # it has one if it was begun before
        trial.set_user_attr("run", name)
        settings = self._settings(trial)
        self.screen.say(f"trial {trial.number}: " + ", ".join(f"{k}={v}" for k, v in trial.params.items()))

        def judge(row: dict[str, Any]) -> None:
            trial.set_user_attr("measure", measure(row))
            trial.report(score(row) or 0.0, row["epoch"])
            if row["epoch"] < settings.epochs and trial.should_prune():
                self.screen.say(f"pruned after epoch {row['epoch']}: most others were better by then")
                raise optuna.TrialPruned

        try:
            run = train_or_resume(self.folder.run(name), settings, self.screen, judge)
        except TrainingError as error:
            self.screen.warn(str(error))
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from None
        return score(run.history[run.best_epoch - 1]) or 0.0
