"""What a study compares: variants of one training run, each with several seeds."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from densekit.data.settings import DataSettings
from densekit.errors import SettingsError, UnknownNameError
from densekit.models.catalogue import model_options
from densekit.training.settings import TrainSettings, make_settings, one_line, read_mapping

_FIXED = DataSettings.model_fields.keys() - {"strict"}

_LONGEST = 150  # characters of a variant's name, which folders and their files begin with


class PlannedRun(NamedTuple):
    """One training run of a study."""

    variant: str
    seed: int
    settings: TrainSettings

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{_as_file_name(self.variant)}-seed{self.seed}"


class Plan(BaseModel):
    """A study: what every run shares, and what each variant changes; a YAML file with these entries is one too.

    >>> plan = Plan(settings={"epochs": 5}, variants={"slow": {"lr": 0.01}, "fast": {"lr": 0.1}}, seeds=2)
    >>> [run.name for run in plan.runs()]
    ['slow-seed0', 'fast-seed0', 'slow-seed1', 'fast-seed1']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = Field(default_factory=dict, description="what all runs share")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, min_length=1, validate_default=True, description="name -> settings that it changes"
    )
    seeds: PositiveInt = Field(3, description="runs of each variant")
    test: bool = Field(False, description="also test each trained network")

    @model_validator(mode="after")
    def _distinct(self) -> "Plan":
        names: dict[str, str] = {}
        for variant in self.variants:
            name = _as_file_name(variant)
            if len(name) > _LONGEST:
                raise ValueError(f"variant {variant[:30]!r}... has too long a name for a folder: rename it")
            if fixed := sorted(_FIXED & self.variants[variant].keys()):
                raise ValueError(f"variant {variant!r} cannot change {fixed[0]}: all are compared on the same pictures")
            if not isinstance(self.variants[variant].get("model_options", {}), dict):
                raise ValueError(f"variant {variant!r}: model_options must be a mapping")
            twin = names.setdefault(name.casefold(), variant)  # as some file systems compare
            if twin != variant:
                raise ValueError(f"variants {twin!r} and {variant!r} would share a run folder: rename one")
        return self

    def base(self) -> TrainSettings:
        """Return the settings that all runs share.

        Raises:
            SettingsError: one of them is unknown or impossible.
        """
        return make_settings(**self.settings)

    def runs(self) -> Iterator[PlannedRun]:
        """All runs, seed by seed, so that a study that is stopped early has something of every variant.

        Raises:
            SettingsError: a variant that cannot be trained; one line says which.
        """
        base = self.base()
        for seed in range(base.seed, base.seed + self.seeds):
            for name, changes in self.variants.items():
                options = {**base.model_options, **changes.get("model_options", {})}
                values = {**base.model_dump(), **changes, "model_options": options, "seed": seed}
                try:
                    yield PlannedRun(name, seed, make_settings(**values))
                except SettingsError as error:
                    raise SettingsError(f"variant {name!r}: {error}") from None


def vary(choices: Mapping[str, Sequence[Any]], base: TrainSettings) -> dict[str, dict[str, Any]]:
    """Return a variant for every combination of values.

    Args:
        choices: a setting, or an option of the network, and the values to try.
        base: settings with the model named.

    Raises:
        SettingsError: a name that is neither, or has no values, or one twice.

    >>> vary({"lr": [0.1, 0.2], "growth_rate": [8, 12]}, TrainSettings(model="densenet121"))["lr=0.1, growth_rate=8"]
    {'lr': 0.1, 'model_options': {'growth_rate': 8}}
    """
    choices = {name.replace("-", "_"): values for name, values in choices.items()}
    for name, values in choices.items():
        _check_choice(name, values, base)
    variants = {}
    for combination in itertools.product(*choices.values()):
        chosen = dict(zip(choices, combination, strict=True))
        changes: dict[str, Any] = {name: value for name, value in chosen.items() if name in TrainSettings.model_fields}
        if options := {name: value for name, value in chosen.items() if name not in changes}:
            changes["model_options"] = options
        variants[", ".join(f"{name}={_short(value)}" for name, value in chosen.items())] = changes
    return variants


def _check_choice(name: str, values: Sequence[Any], base: TrainSettings) -> None:
    assert base.model is not None
    if name in _FIXED:
        instead = "--seeds says with how many each is trained" if name == "seed" else "make a study for each"
        raise SettingsError(f"vary {name}: the variants of a study see the same pictures; {instead}")
    known = [*TrainSettings.model_fields, *model_options(base.model)]
    if name not in known:
        raise UnknownNameError(f"setting, or option of {base.model},", name, known)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise SettingsError(f"vary {name}={values!r}: give a list of values")
    written = [_short(value) for value in values]
    if len(set(written)) < max(len(written), 2):
        raise SettingsError(f"vary {name}={','.join(written)}: give two values or more, each once")


def parse_choices(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read NAME=A,B,C as people type it; lists go in brackets.

    Raises:
        SettingsError: a text of another form.

    >>> parse_choices(["lr=0.1,0.2", "block_config=[2,2],[4,4]", "optimizer=sgd,adam"])
    {'lr': [0.1, 0.2], 'block_config': [[2, 2], [4, 4]], 'optimizer': ['sgd', 'adam']}
    """
    choices: dict[str, list[Any]] = {}
    for text in texts:
        name, found, values = text.partition("=")
        try:
            choices[name] = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            found = ""
        if not (name and found):
            raise SettingsError(f"vary {text!r}: expected NAME=A,B,C, e.g. growth_rate=8,12,16")
    return choices


def make_plan(**values: Any) -> Plan:
    """Check a plan; what pydantic finds becomes one line.

    Raises:
        SettingsError: an entry that is unknown or cannot work.
    """
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"plan of a study: {one_line(error, Plan)}") from None


def is_plan_file(what: str | Path) -> bool:
    """Whether a word names a YAML file rather than a ready study or data."""
    return Path(what).suffix in {".yaml", ".yml"}


def read_plan(path: Path) -> Plan:
    """Read a plan from a YAML file.

    Raises:
        SettingsError: no such file, or not a plan.
    """
    values = read_mapping(path, SettingsError)
    try:
        return make_plan(**values)
    except (SettingsError, TypeError) as error:
        raise SettingsError(f"{path}: {error}") from None


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_file_name(variant: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", variant).strip("_")
