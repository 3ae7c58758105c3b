"""Which implementation of the fused steps runs, and why."""

import logging
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from densekit.engine import ops
from densekit.errors import SettingsError

ENGINES = ("auto", "torch")
logger = logging.getLogger("densekit.engine")


@dataclass(frozen=True)
class Choice:
    """An implementation of the steps of `densekit.engine.ops`: its name, its functions, and why it was chosen."""

    name: str
    ops: ModuleType
    reason: str


@cache
def choose_ops(engine: str, device: str) -> Choice:
    """Choose the implementation of the fused steps.

    Args:
        engine: one of `ENGINES`; "auto" takes the fastest that can run.
        device: type of the device that the features lie on, e.g. ``"cpu"``.

    Raises:
        SettingsError: there is no such engine.

    >>> choose_ops("auto", "cpu").name
    'torch'
    """
    if engine not in ENGINES:
        raise SettingsError(f"engine is {engine!r}, must be one of {', '.join(ENGINES)}")
    reason = "asked for" if engine == "torch" else f"the only one there is for {device}"
    return Choice("torch", ops, reason)


@cache
def log_once(level: int, message: str) -> None:
    """Log ``message`` to "densekit.engine", the first time it comes up in this process."""
    logger.log(level, message)
