"""Where a search keeps its trials: a database that machines may share, with heartbeats from whoever works at one."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from densekit.errors import SettingsError
from densekit.optional import require

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_RETRIES = 2  # of a trial whose worker died: the trial may be what killed it


@contextmanager
def open_trials(url: str, name: str, *, seed: int | None, warmup: int, heartbeat: int) -> "Iterator[Study]":
    """Open the trials of a search, or begin them; the database is closed afterwards.

    Proposals come from TPE; a trial below the median of the earlier ones is pruned.

    Args:
        url: a database that Optuna can use, e.g. postgresql://user:password@host/database.
        name: of the search in the database.
        seed: makes the proposals of a single worker repeatable; several must differ, and have None.
        warmup: a trial may be pruned after one epoch more than that.
        heartbeat: seconds between heartbeats; a trial is lost after three times as long without one.

    Raises:
        SettingsError: the database cannot be used.
        MissingPartError: Optuna is not installed.
    """
    optuna = require("optuna", extra="study")
    from sqlalchemy.exc import SQLAlchemyError

    if url.startswith("postgresql://"):
        url = url.replace("postgresql", "postgresql+psycopg", 1)  # the driver that the extra installs
    try:
        with _no_warnings():
            storage = optuna.storages.RDBStorage(
                url,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=_retry(_RETRIES),
            )
        trials = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=warmup + 1),  # epochs count from 1
            load_if_exists=True,
        )
    except (SQLAlchemyError, ImportError) as error:
        raise SettingsError(f"the storage cannot be used: {str(error).splitlines()[0]}") from None
    seed = None if seed is None else seed + len(trials.trials)  # resumed, it does not propose the same again
    trials.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=seed is None)
    try:
        yield trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def fail_lost_trials(trials: "Study") -> None:
    """Fail the trials whose workers have given no sign of life, and queue them to be tried again."""
    with _no_warnings():
        require("optuna", extra="study").storages.fail_stale_trials(trials)


def try_again(trials: "Study", number: int) -> None:
    """Queue a trial that was stopped by Ctrl-C again, with its values and what it has reported."""
    with _no_warnings():
        _retry(None)(trials, trials.trials[number])


def take_back_running(trials: "Study") -> None:
    """Queue the trials of a process that was killed again, without waiting for missed heartbeats."""
    state = require("optuna", extra="study").trial.TrialState
    for trial in trials.get_trials(deepcopy=False, states=(state.RUNNING,)):
        trials.tell(trial.number, state=state.FAIL)
        try_again(trials, trial.number)


def _retry(most: int | None) -> "Callable[[Study, FrozenTrial], None]":
    storages = require("optuna", extra="study").storages
    return storages.RetryHeartbeatStaleTrialCallback(most, inherit_intermediate_values=True)


def without_password(url: str) -> str:
    """Return a database URL as it may be written down.

    >>> without_password("postgresql://anna:secret@host/db")
    'postgresql://anna:***@host/db'
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise SettingsError("the storage is not a database URL such as postgresql://user:password@host/name") from None


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Let the screen tell what happens instead of Optuna's log."""
    logging = require("optuna", extra="study").logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep Optuna from calling its heartbeat experimental at every start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", require("optuna", extra="study").exceptions.ExperimentalWarning)
        yield
