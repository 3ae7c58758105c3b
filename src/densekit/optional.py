"""Optional packages: imported where they are needed, with an error that says how to install what is missing."""

from importlib import import_module
from types import ModuleType

from densekit.errors import MissingPartError


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name of the module, e.g. ``"onnx"``.
        extra: the densekit extra that installs it, e.g. ``"export"``.

    Raises:
        MissingPartError: it is not installed; the message names the pip command.

    >>> require("json", extra="export").__name__
    'json'
    >>> require("no_such_module", extra="export")
    Traceback (most recent call last):
    densekit.errors.MissingPartError: this needs no_such_module, which is not installed: pip install "densekit[export]"
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise  # the module is there, but something it needs is not: the user must see that one's name
        raise MissingPartError(
            f'this needs {module}, which is not installed: pip install "densekit[{extra}]"'
        ) from None
