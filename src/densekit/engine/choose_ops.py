"""Which implementation of the fused steps runs, and why."""

import os
from dataclasses import dataclass
from functools import cache

import torch

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.compile_steps import CannotCompile, load_steps, logger
from densekit.engine.ops import TorchOps
from densekit.engine.ops_cpu import CompiledOps
from densekit.errors import SettingsError

ENGINES = ("auto", "torch", "cpu", "triton")


@dataclass(frozen=True)
class Choice:
    """An implementation of the fused steps, and why it was chosen."""

    ops: TorchOps
    reason: str

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.ops.name


class _CannotRun(Exception):  # noqa: N818 (no error: other steps take over)
    """The Triton kernels cannot run on this machine; the message says why."""


_failures: list[CannotCompile] = []  # behind choices that `choose_ops` has cached


@cache
def choose_ops(engine: str, device: str) -> Choice:
    """Choose the implementation of the fused steps. The choice is cached, as every call of a fused module asks for it.

    Args:
        engine: one of `ENGINES`; "auto" takes the fastest that is proven on the device.
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
    if engine == "triton":
        try:
            return Choice(_load_triton(device), "asked for")
        except _CannotRun as reason:
            raise SettingsError(f"engine 'triton' cannot run on {device}: {reason}; try auto or torch") from None
    if device == "cpu":
        try:
            library = load_steps()
            if engine == "auto" and not library.shares_work() and torch.get_num_threads() > 1:
                raise CannotCompile("the compiler knows no OpenMP, and one thread is slower than all that stock takes")
            return Choice(CompiledOps(library), "asked for" if engine == "cpu" else "the fastest for cpu")
        except CannotCompile as reason:
            if engine == "cpu":
                raise SettingsError(f"engine 'cpu' cannot run: {reason}; try auto or torch") from None
            _failures.append(reason)
            return Choice(TorchOps(), f"the compiled steps cannot run: {reason}")
    if engine == "cpu":
        raise SettingsError(f"engine 'cpu' cannot run on {device}: try auto or torch")
    return Choice(TorchOps(), f"nothing faster is proven on {device}")  # the Triton kernels have not run on a GPU yet


def choose_ops_anew(engine: str, device: str) -> Choice:
    """As `choose_ops`, but compile again what failed before: a compiler that was stopped may succeed now."""
    if _failures:
        _failures.clear()
        choose_ops.cache_clear()
    return choose_ops(engine, device)


def _load_triton(device: str) -> TorchOps:
    if device == "cuda":
        devices = range(torch.cuda.device_count())
        if not devices:
            raise _CannotRun("there is no such device")
        major, minor = min(map(torch.cuda.get_device_capability, devices))
        if major < 8:
            raise _CannotRun(f"it needs compute capability 8.0, there is {major}.{minor}")
    elif device != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":  # how it is tested without a device
        raise _CannotRun("it needs a CUDA device, with the network on it")
    try:
        from densekit.engine.ops_triton import TritonOps
    except ImportError as reason:
        raise _CannotRun(f"the package triton is missing ({reason})") from None
    ops = TritonOps()
    try:
        one = torch.ones(1, 1, device=device)
        ops.bnrelu(one, FoldedNorm(one[0], one[0], one[0], one[0]), out=one)
    except Exception as reason:  # a missing C compiler, an old driver: any of it would stop every step
        raise _CannotRun(f"a first kernel failed: {str(reason).strip().partition(chr(10))[0]}") from reason
    return ops


@cache
def log_once(level: int, message: str) -> None:
    """Log ``message`` to "densekit.engine", the first time it comes up in this process."""
    logger.log(level, message)
