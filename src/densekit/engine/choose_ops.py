"""Which implementation of the fused steps runs, and why."""

import logging
from dataclasses import dataclass
from functools import cache

from densekit.engine.compile_steps import CannotCompile, load_steps
from densekit.engine.ops import TorchOps
from densekit.engine.ops_cpu import CompiledOps
from densekit.errors import SettingsError

ENGINES = ("auto", "torch", "cpu")
logger = logging.getLogger("densekit.engine")


@dataclass(frozen=True)
class Choice:
    """An implementation of the fused steps, and why it was chosen."""

    ops: TorchOps
    reason: str

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.ops.name


@cache
def choose_ops(engine: str, device: str) -> Choice:
    """Choose the implementation of the fused steps.

    Args:
        engine: one of `ENGINES`; "auto" takes the fastest that can run.
        device: type of the device that the features lie on, e.g. ``"cpu"``.

    Raises:
        SettingsError: there is no such engine, or it cannot run here.

    >>> choose_ops("torch", "cpu").name
    'torch'
    """
    if engine not in ENGINES:
        raise SettingsError(f"engine is {engine!r}, must be one of {', '.join(ENGINES)}")
    if engine == "torch":
        return Choice(TorchOps(), "asked for")
    if device == "cpu":
        try:
            return Choice(CompiledOps(load_steps()), "asked for" if engine == "cpu" else "the fastest for cpu")
        except CannotCompile as reason:
            if engine == "cpu":
                raise SettingsError(f"engine 'cpu' cannot run: {reason}; try auto or torch") from None
            return Choice(TorchOps(), f"the compiled steps cannot run: {reason}")
    if engine == "cpu":
        raise SettingsError(f"engine 'cpu' cannot run on {device}: try auto or torch")
    return Choice(TorchOps(), f"the only one there is for {device}")


@cache
def log_once(level: int, message: str) -> None:
    """Log ``message`` to "densekit.engine", the first time it comes up in this process."""
    logger.log(level, message)
