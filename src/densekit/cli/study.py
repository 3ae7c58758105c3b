"""densekit study."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from densekit.cli.options import Quiet
from densekit.cli.train import Flags

app = App(name="study")


@app.default
def study(
    what: str | None = None,
    data: str | None = None,
    /,
    *,
    vary: list[str] | None = None,
    seeds: int | None = None,
    test: Annotated[bool, Parameter(negative="")] = False,
    recipe: str | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    settings: Annotated[Flags | None, Parameter(name="*")] = None,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train variants of a network, several seeds each, and compare them.

    Parameters
    ----------
    what
        growth-rate, learning-rate, depth, activation, pooling or optimizer; or a YAML file of variants. May be left
        out where --vary says it.
    data
        As for `densekit train`. [the recipe's, or digits]
    vary
        NAME=A,B,C: a setting, or an option of the network, with the values to try. Given again: all combinations.
    seeds
        Runs of each variant. [3]
    test
        Also test each trained network. Otherwise the test pictures are never looked at.
    recipe
        Settings to start from: a name (see `densekit recipes`) or a YAML file.
    out
        Folder to make. [studies/DATA-WHAT]
    resume
        Go on with the study in --out; more --seeds or --test may be asked for.
    """
    from rich.console import Console

    from densekit.console import Screen
    from densekit.studies.plan import parse_choices
    from densekit.studies.ready import READY
    from densekit.studies.study import study as run_study

    if data is None and what not in (*READY, None) and Path(what).suffix not in {".yaml", ".yml"}:
        what, data = None, what  # one word that is no study is the data
    found = run_study(
        data,
        what,
        choices=parse_choices(vary or []),
        seeds=seeds,
        test=test or None,
        recipe=recipe,
        out=out,
        resume=resume,
        screen=Screen(quiet=quiet),
        **_given(settings),
    )
    Console(soft_wrap=True, highlight=False).print(found.table())
    print(f"written to {found.folder}: study.yaml, results.csv, study.png, runs")


def _given(settings: Any) -> dict[str, Any]:
    return {} if settings is None else settings.model_dump(include=settings.model_fields_set)


@app.command
def search(
    data: str | None = None,
    /,
    *,
    space: Literal["small", "default", "densenet"] | None = None,
    trials: int | None = None,
    storage: str | None = None,
    name: str | None = None,
    heartbeat: int | None = None,
    test: Annotated[bool, Parameter(negative="")] = False,
    recipe: str | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    settings: Annotated[Flags | None, Parameter(name="*")] = None,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Search settings with a high validation accuracy; trials that fall behind are pruned.

    Parameters
    ----------
    data
        As for `densekit train`. [the recipe's, or digits]
    space
        small: learning rate, weight decay, label smoothing. default: also optimizer, batch size, mixup,
        TrivialAugment. densenet: as small, and growth rate, dropout, compression. [small]
    trials
        Trials to finish, all workers together. [30]
    storage
        URL of a database, postgresql://USER:PASSWORD@HOST/NAME, that several workers share, each with an --out of its
        own. [trials.sqlite in the folder]
    name
        Of the search in the database. [densekit]
    heartbeat
        Seconds between a worker's signs of life; after three without one its trial goes to another. [60]
    test
        Also test the network of the best trial. Otherwise the test pictures are never looked at.
    recipe
        Settings to start from: a name (see `densekit recipes`) or a YAML file.
    out
        Folder to make. [studies/DATA-search]
    resume
        Go on with the search in --out; more --trials or --test may be asked for.
    """
    from rich.console import Console

    from densekit.console import Screen
    from densekit.studies.search import search as run_search

    found = run_search(
        data,
        space=space,
        trials=trials,
        storage=storage,
        name=name,
        heartbeat=heartbeat,
        test=test,
        recipe=recipe,
        out=out,
        resume=resume,
        screen=Screen(quiet=quiet),
        **_given(settings),
    )
    Console(soft_wrap=True, highlight=False).print(found.table())
    print(f"written to {found.folder}: study.yaml, results.csv, study.png, best.yaml (a recipe), runs")
