"""One table from verb to function; a function's module is imported when its verb is used, so that --help is quick."""

import io
import os
import sys

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from densekit.cli.options import shown_default
from densekit.errors import DensekitError
from densekit.version import __version__

TABLE = {
    "train": ("densekit.cli.train:train", "Train a classifier on a folder of labelled pictures, a CSV or a named set."),
    "evaluate": ("densekit.cli.evaluate:evaluate", "Test a trained classifier on pictures that it was not trained on."),
    "cross-validate": (
        "densekit.cli.cross_validate:cross_validate",
        "Test every picture with a network that was trained without it.",
    ),
    "predict": (
        "densekit.cli.predict:predict",
        "Name what is on pictures. Exit status 2 only if none of them can be read.",
    ),
    "export": ("densekit.cli.export:export", "Export a trained classifier to another runtime, and compare the two."),
    "serve": ("densekit.cli.serve:serve", "Answer over HTTP: a page for people, JSON for programs."),
    "push": ("densekit.cli.push:push", "Upload a classifier to the Hugging Face Hub, with a model card."),
    "explain": ("densekit.cli.explain:explain", "Show where on pictures the evidence for a class lies."),
    "embed": ("densekit.cli.embed:embed", "Write the vectors in which a classifier sees pictures, to compare them."),
    "profile": ("densekit.cli.profile:profile", "Measure what networks cost before they are trained, side by side."),
    "report": ("densekit.cli.report:report", "Show all there is to know about a trained classifier on one HTML page."),
    "study": ("densekit.cli.study:app", "Train variants of a network, several seeds each, and compare them."),
    "models": ("densekit.cli.listings:models", "List the networks, with their parameters."),
    "recipes": ("densekit.cli.listings:recipes", "List the recipes, each with what it is for."),
    "demo": ("densekit.cli.demo:demo", "Train on the embedded digits, test, and show where the results are."),
}

_LOADER_ENDED = (
    "a process that loads pictures was killed, perhaps because memory ran out: "
    "try again (train and study with --resume), with --workers 0 if it was memory"
)

app = App(
    name="densekit",
    help="Train, explain and ship image classifiers, DenseNets first.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main tells it
    default_parameter=Parameter(negative_iterable=(), show_default=shown_default),
)
for _place, (_verb, (_function, _help)) in enumerate(TABLE.items()):
    app.command(_function, name=_verb, help=_help, sort_key=_place)


def main() -> None:
    """Run one command: exit status 0 done, 2 bad input (one line says what), 130 interrupted with all saved."""
    _print_any_name()
    try:
        status = app(sys.argv[1:], exit_on_error=False, print_error=False) or 0
        sys.stdout.flush()  # a closed pipe or a full disk must show here, not while Python shuts down
        sys.exit(status)
    except UnusedCliTokensError as error:
        more = ", ".join(error.unused_tokens or ())
        print(f"densekit: too many arguments, {more}: put a value with spaces in quotes", file=sys.stderr)
        sys.exit(2)
    except (DensekitError, CycloptsError) as error:
        print(f"densekit: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        print(f"densekit: {_LOADER_ENDED}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interruption:  # what was saved says how to go on
        print("; ".join(["densekit: interrupted", *map(str, interruption.args)]), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone, e.g. `| head`
        _forget_output()
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"densekit: {error}", file=sys.stderr)
        if error.filename is None:  # then it may be standard output
            _forget_output()
        sys.exit(2)


def _print_any_name() -> None:
    """File names may hold characters that the terminal cannot show: escape them instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Let Python flush the rest of the output into nothing when it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
