"""What a search may change, by name: a function from an Optuna trial to settings."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densekit.errors import SettingsError
from densekit.optional import require
from densekit.training.settings import TrainSettings, make_settings

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FixedTrial

Space = Callable[["Trial | FixedTrial", TrainSettings], dict[str, Any]]


def _rates(trial: "Trial | FixedTrial", optimizer: str) -> dict[str, Any]:
    """Learning rate and weight decay around the optimizer's usual ones; their names hold the optimizer's.

    Otherwise what was learned about one optimizer's rates would be believed of another's.
    """
    usual = make_settings(optimizer=optimizer).with_optimizer_defaults()
    assert isinstance(usual.lr, float)
    lowest, highest = (1e-3, 0.5) if optimizer == "adamw" else (1e-5, 1e-2)
    return {
        "lr": trial.suggest_float(f"lr_{optimizer}", usual.lr / 20, usual.lr * 5, log=True),
        "weight_decay": trial.suggest_float(f"weight_decay_{optimizer}", lowest, highest, log=True),
    }


def small(trial: "Trial | FixedTrial", base: TrainSettings) -> dict[str, Any]:
    """Learning rate, weight decay and label smoothing; for 20 trials or more."""
    smoothing = trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05)
    return {**_rates(trial, base.optimizer or "sgd"), "label_smoothing": smoothing}


def default(trial: "Trial | FixedTrial", base: TrainSettings) -> dict[str, Any]:
    """Optimizer (SGD, AdamW) with its rates, label smoothing, batch size, mixup, TrivialAugment; for 60 or more."""
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adamw"])
    return {
        "optimizer": optimizer,
        **_rates(trial, optimizer),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
        "mixup": trial.suggest_float("mixup", 0.0, 0.4, step=0.1),
        "trivial_augment": trial.suggest_categorical("trivial_augment", [False, True]),
    }


def densenet(trial: "Trial | FixedTrial", base: TrainSettings) -> dict[str, Any]:
    """What ``small`` does, and the network's growth rate, dropout and compression; for DenseNets, 40 or more."""
    options = {
        "growth_rate": trial.suggest_int("growth_rate", 8, 48, step=8),
        "drop_rate": trial.suggest_float("drop_rate", 0.0, 0.3, step=0.1),
        "compression": trial.suggest_float("compression", 0.4, 1.0, step=0.1),
    }
    return {**small(trial, base), "model_options": {**base.model_options, **options}}


SPACES: dict[str, Space] = {"small": small, "default": default, "densenet": densenet}
_DRAWS = 20


def check_space(name: str, base: TrainSettings, build: Callable[[TrainSettings], object]) -> None:
    """Draw from a space a few times, so that a search that cannot be finished is not begun.

    Args:
        name: of the space, in `SPACES`.
        base: settings that all trials share.
        build: makes the network of settings; tried on one draw.

    Raises:
        SettingsError: draws do not fit ``base``.
    """
    optuna = require("optuna", extra="study")
    draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    try:
        for number in range(_DRAWS):
            settings = make_settings(**{**base.model_dump(), **SPACES[name](draws.ask(), base)})
            if number == 0:
                build(settings)
    except SettingsError as error:
        raise SettingsError(f"space {name!r} does not fit these settings: {error}") from None
