"""The C++ files beside this one as a library: compiled on first use, for the machine's own processor, and kept."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from densekit.files import write_atomically

_HEADERS = [
    Path(__file__).with_name(f"{name}.hpp")
    for name in ("rows", "bfloat16_rows", "scratch", "layer_steps", "multiply", "winograd_transforms", "winograd")
]
_SOURCES = [Path(__file__).with_name(name) for name in ("steps.cpp", "product.cpp", "winograd.cpp", "layer.cpp")]
_NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
_FLAGS = ("-std=c++20", "-O3", _NATIVE, "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class CannotCompile(Exception):  # noqa: N818 (no error: other steps take over)
    """There is no library of the compiled steps on this machine; the message says why."""


@cache
def load_steps() -> ctypes.CDLL:
    """Return the compiled steps; the first time on a machine this takes a few seconds.

    The compiler is ``$CXX``, or else c++, g++ or clang++. The library is kept in the platform's cache folder, under a
    name made of all that went into it.

    Raises:
        CannotCompile: no compiler, or one that fails.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise CannotCompile("no C++ compiler found (c++, g++, clang++, or CXX)")
    library = user_cache_path("densekit") / "steps" / f"{_key(compiler)}.so"
    try:
        return _load(library, compiler)
    except OSError:  # a folder that cannot be written, or from which nothing may be loaded
        pass
    try:
        with tempfile.TemporaryDirectory(prefix="densekit-") as folder:
            return _load(Path(folder, library.name), compiler)
    except OSError as error:
        raise CannotCompile(f"the compiled steps cannot be loaded: {error}") from None


def _load(library: Path, compiler: str) -> ctypes.CDLL:
    if not library.exists():
        write_atomically(library, lambda path: _compile(compiler, path))
    return ctypes.CDLL(str(library))


def _key(compiler: str) -> str:
    """Return a name for the library of these sources, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    about = Path("/proc/cpuinfo")
    flags = [line for line in about.read_text().splitlines() if line.startswith("flags")][:1] if about.exists() else []
    texts = [source.read_text() for source in (*_HEADERS, *_SOURCES)]
    parts = [*texts, compiler, version, platform.machine(), platform.processor(), *_FLAGS, *flags]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _compile(compiler: str, path: Path) -> None:
    for threads in (["-fopenmp"], []):  # Apple's compiler knows no OpenMP
        command = [compiler, *_FLAGS, *threads, *map(str, _SOURCES), "-o", str(path)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            return
    first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr[:200])
    raise CannotCompile(f"{compiler} cannot compile the steps: {first}")
