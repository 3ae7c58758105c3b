"""densekit study."""

from pathlib import Path
from typing import Annotated, Literal, Unpack

from cyclopts import App, Parameter

from densekit.cli.options import Quiet, Recipe
from densekit.cli.train import Flags

app = App(name="study")

What = Annotated[
    str | None,
    Parameter(
        help="growth-rate, learning-rate, depth, activation, pooling or optimizer; or a YAML file of variants. "
        "Not needed with --vary."
    ),
]
Space = Annotated[
    Literal["small", "default", "densenet"] | None,
    Parameter(
        help="small: learning rate, weight decay, label smoothing. default: also optimizer, batch size, mixup, "
        "TrivialAugment. densenet: as small, and growth rate, dropout, compression. [small]"
    ),
]
Storage = Annotated[
    str | None,
    Parameter(
        help="URL of a database, postgresql://USER:PASSWORD@HOST/NAME, that several workers share, each with an --out "
        "of its own. [trials.sqlite in the folder]"
    ),
]


@app.default
def study(
    what: What = None,
    data: str | None = None,
    /,
    *,
    vary: list[str] | None = None,
    seeds: int | None = None,
    test: Annotated[bool, Parameter(negative="")] = False,
    recipe: Recipe = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    **settings: Unpack[Flags],
) -> None:
    """Train variants of a network with several seeds each, and compare them.

    Parameters
    ----------
    data
        As for `densekit train`. [the recipe's, or digits]
    vary
        NAME=A,B,C: a setting, or an option of the network, with the values to try. Given again: all combinations.
    seeds
        Runs per variant, each with its own seed. [3]
    test
        Also test each trained network. Otherwise the test pictures are not used.
    out
        Folder to create. [studies/DATA-WHAT]
    resume
        Continue the study in --out; --seeds may be higher, and --test added.
    """
    from densekit.console import Screen, print_table
    from densekit.studies.named_studies import NAMED_STUDIES
    from densekit.studies.plan import parse_choices
    from densekit.studies.study import study as run_study

    if data is None and what not in (*NAMED_STUDIES, None) and Path(what).suffix not in {".yaml", ".yml"}:
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
        **settings,
    )
    print_table(found.table())
    print(f"written to {found.folder}: study.yaml, results.csv, study.png, runs")


@app.command
def search(
    data: str | None = None,
    /,
    *,
    space: Space = None,
    trials: int | None = None,
    storage: Storage = None,
    name: str | None = None,
    heartbeat: int | None = None,
    test: Annotated[bool, Parameter(negative="")] = False,
    recipe: Recipe = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    **settings: Unpack[Flags],
) -> None:
    """Search for settings with a high validation score; trials that fall behind are pruned.

    Parameters
    ----------
    data
        As for `densekit train`. [the recipe's, or digits]
    trials
        Trials to finish, by all workers together. [30]
    name
        Name of the search in the database. [densekit]
    heartbeat
        Seconds between a worker's reports; after three missing ones its trial goes to another worker. [60]
    test
        Also test the network of the best trial. Otherwise the test pictures are not used.
    out
        Folder to create. [studies/DATA-search]
    resume
        Continue the search in --out; --trials may be higher, and --test added.
    """
    from densekit.console import Screen, print_table
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
        **settings,
    )
    print_table(found.table())
    print(f"written to {found.folder}: study.yaml, results.csv, study.png, best.yaml (a recipe), runs")
