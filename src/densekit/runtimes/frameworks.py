"""Keras and MXNet: other frameworks, each in a process, and where the user says so in an environment, of its own.

MXNet needs a NumPy that densekit cannot use, and TensorFlow beside PyTorch in one process is asking for trouble.
"""

import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
import torch
from torch import Tensor

from densekit.errors import CheckpointError, MissingPartError
from densekit.runtimes import framework_worker
from densekit.runtimes.exported import ExportedNetwork


@dataclass(frozen=True)
class Framework:
    """Another framework.

    Args:
        name: of its Python package.
        variable: environment variable with the path of a Python that has the package.
        advice: how to get one.
    """

    name: str
    variable: str
    advice: str

    def python(self) -> str:
        """Return the Python to run.

        Raises:
            MissingPartError: none is known; says how to get one.
        """
        if given := os.environ.get(self.variable):
            return str(Path(given).expanduser())
        if find_spec(self.name):
            return sys.executable
        raise MissingPartError(f"this needs {self.name}, which is not installed: {self.advice}")

    def start(self, script: Path, *arguments: str | Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Run a script that needs the framework, numpy and nothing else.

        Returns:
            The process, with pipes, and a file with what it says on standard error.

        Raises:
            MissingPartError: there is no Python with the framework, or the one that the user named cannot be run.
        """
        python, environment = self.python(), dict(os.environ)
        if python == sys.executable:
            environment.setdefault("KERAS_BACKEND", "torch")  # the one that is certainly there
        command = [python, str(script), *map(str, arguments)]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=environment), errors
        except OSError as error:
            errors.close()
            raise MissingPartError(f"cannot run {python}, which {self.variable} names: {error.strerror}") from None


KERAS = Framework(
    "keras",
    "DENSEKIT_KERAS_PYTHON",
    "pip install keras, or set DENSEKIT_KERAS_PYTHON to the Python of an environment that has it",
)
MXNET = Framework(
    "mxnet",
    "DENSEKIT_MXNET_PYTHON",
    "make it an environment of its own, python3.11 -m venv mxnet && mxnet/bin/pip install mxnet==1.9.1 'numpy<1.24', "
    "and set DENSEKIT_MXNET_PYTHON=mxnet/bin/python",
)


def open_keras(path: Path) -> ExportedNetwork:
    """Open a .keras file.

    Raises:
        CheckpointError: Keras cannot open it.
        MissingPartError: there is no Keras.
    """
    return ExportedNetwork(_Worker(KERAS, path))


def open_mxnet(path: Path) -> ExportedNetwork:
    """Open a NAME-symbol.json with the NAME-0000.params beside it.

    Raises:
        CheckpointError: MXNet cannot open it.
        MissingPartError: there is no MXNet.
    """
    return ExportedNetwork(_Worker(MXNET, path))


class _Worker:
    """A process that answers pictures with logits; it ends with this object."""

    def __init__(self, framework: Framework, path: Path):
        self.name, self.lock = framework.name, Lock()
        self.process, self.errors = framework.start(Path(framework_worker.__file__), framework.name, path)
        weakref.finalize(self, _stop, self.process, self.errors)
        self.receive(f"{path} cannot be opened by {framework.name}")

    def __call__(self, pictures: Tensor) -> Tensor:
        assert self.process.stdin is not None
        with self.lock:  # answers come in the order of the questions
            try:
                with suppress(BrokenPipeError):  # then it has ended, and said why
                    framework_worker.send(self.process.stdin, pictures.numpy(force=True))
                return torch.from_numpy(self.receive(f"{self.name} cannot take pictures {tuple(pictures.shape)}"))
            except BaseException:
                self.process.kill()  # the next question would get the answer that nobody waited for
                raise

    def receive(self, failure: str) -> np.ndarray:
        assert self.process.stdout is not None
        try:
            return framework_worker.receive(self.process.stdout)
        except EOFError:
            raise CheckpointError(f"{failure}: {last_line(self.errors)}") from None


def last_line(errors: IO[bytes]) -> str:
    """Return the last line that a process has written there: Python's error."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it ended without saying why"


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()  # it has nothing to save; to close its input is not enough where a fork of this process holds it too
    process.communicate()
    errors.close()
