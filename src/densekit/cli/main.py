"""One table from verb to function; a function's module is imported when its verb is used, so that --help is quick."""

import sys

from cyclopts import App, CycloptsError, Parameter

from densekit.errors import DensekitError
from densekit.version import __version__

TABLE = {
    "train": ("densekit.cli.train:train", "Train a classifier on a folder of labelled pictures, a CSV or a named set."),
    "evaluate": ("densekit.cli.evaluate:evaluate", "Test a trained classifier on pictures it has not learned from."),
    "predict": ("densekit.cli.predict:predict", "Name what is on pictures."),
    "models": ("densekit.cli.listings:models", "List the networks, with their parameters."),
    "recipes": ("densekit.cli.listings:recipes", "List the recipes, each with what it is for."),
    "demo": ("densekit.cli.demo:demo", "Train on the embedded digits, test, and show where the results are."),
}

app = App(
    name="densekit",
    help="Train, explain and ship image classifiers, DenseNets first.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    default_parameter=Parameter(negative_iterable=()),
)
for _verb, (_function, _help) in TABLE.items():
    app.command(_function, name=_verb, help=_help)


def main() -> None:
    """Run one command: exit status 0 done, 2 bad input (one line says what), 130 interrupted with all saved."""
    try:
        sys.exit(app(exit_on_error=False, print_error=False) or 0)
    except (DensekitError, CycloptsError) as error:
        print(f"densekit: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("densekit: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone, e.g. `| head`
        sys.stderr.close()
        sys.exit(0)
