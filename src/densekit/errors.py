"""Every exception densekit raises on purpose.

All derive from `DensekitError`; the command line prints them as one line and exits with status 2. Each also derives
from the built-in that a Python caller would expect to catch.
"""


class DensekitError(Exception):
    """Base of every error that densekit raises on purpose: says what was wrong with which input and what would work."""


class SettingsError(DensekitError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class UnknownNameError(DensekitError, LookupError):
    """A name (model, data set, recipe, ...) that is in no table; the message offers the nearest ones, or the first.

    ``elsewhere`` are names of other libraries, each with what it is called here.
    """

    def __init__(self, kind: str, name: str, known: list[str], elsewhere: dict[str, str] | None = None):
        from difflib import get_close_matches

        if name in (elsewhere or {}):
            hint = f"here it is {(elsewhere or {})[name]}"
        elif near := get_close_matches(name.lower(), known, n=3, cutoff=0.5):
            hint = f"did you mean: {', '.join(near)}?"
        else:
            hint = f"there are: {', '.join(sorted(known)[:8])}" + (", ..." if len(known) > 8 else "")
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class ShapeError(DensekitError, ValueError):
    """An input whose shape the network or function cannot take."""


class DataError(DensekitError, ValueError):
    """A data set, folder or table that cannot be used as it is."""


class PictureError(DataError):
    """One picture file that cannot be read as a picture."""


class CheckpointError(DensekitError, ValueError):
    """A run folder or weights file that is missing, damaged or does not fit."""


class TrainingError(DensekitError, RuntimeError):
    """Training cannot go on."""


class DivergenceError(TrainingError):
    """The loss is no longer a number; so many ``epochs`` were finished before."""

    def __init__(self, message: str, epochs: int):
        super().__init__(message)
        self.epochs = epochs


class ExportError(DensekitError, RuntimeError):
    """An exported network that does not answer as the trained one does, or cannot be made."""


class MissingPartError(DensekitError, ImportError):
    """An optional package that is not installed; the message names the pip command."""
