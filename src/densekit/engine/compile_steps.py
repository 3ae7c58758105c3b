"""The C++ files beside this one as a library: compiled on first use, for the machine's own processor, and kept."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from threading import Lock

import torch
from platformdirs import user_cache_path

from densekit.files import write_atomically, write_text

_HEADERS, _SOURCES = (sorted(Path(__file__).parent.glob(f"*.{suffix}")) for suffix in ("hpp", "cpp"))
_NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
_FLAGS = ("-std=c++20", "-O3", _NATIVE, "-fno-math-errno", "-fno-trapping-math", "-fPIC")
logger = logging.getLogger("densekit.engine")
_one_thread = Lock()  # one thread compiles, the others wait for its library


class CannotCompile(Exception):  # noqa: N818 (no error: other steps take over)
    """There is no library of the compiled steps on this machine; the message says why."""


@cache
def load_steps() -> ctypes.CDLL:
    """Return the compiled steps; the first time on a machine this takes 11 to 17 s on two cores.

    The compiler is ``$CXX``, or else c++, g++ or clang++. The library is kept in the platform's cache folder, under a
    name that is a hash of everything that went into it, and with a checksum, because loading an incomplete file would
    kill the process. If others can write to that folder, or nothing can be loaded from it, the library is compiled for
    this process alone.

    Raises:
        CannotCompile: no compiler, or one that fails.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    commands = (named, ["c++"], ["g++"], ["clang++"])
    compiler = next((words for words in commands if words and shutil.which(words[0])), None)
    if compiler is None:
        raise CannotCompile("no C++ compiler found (c++, g++, clang++, or CXX)")
    if named and compiler is not named:
        logger.warning(f"the compiler {named[0]}, which CXX names, is not found: {compiler[0]} is taken")
    name, folder = f"{_key(compiler)}.so", user_cache_path("densekit") / "steps"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _is_mine(folder) and (not (folder / name).exists() or _is_mine(folder / name)):
            with _one_thread:
                return _load(folder / name, compiler)
    except OSError:  # a folder that cannot be written, or from which nothing may be loaded
        pass
    try:
        with tempfile.TemporaryDirectory(prefix="densekit-") as private:
            return _load(Path(private, name), compiler)
    except OSError as error:
        raise CannotCompile(f"the compiled steps cannot be loaded: {error}") from None


def _is_mine(path: Path) -> bool:
    """Whether only this user can have written ``path``; a folder of this user's that others may write to is closed."""
    if not hasattr(os, "geteuid"):
        return True
    about = path.stat()
    if about.st_uid == os.geteuid() and path.is_dir() and about.st_mode & 0o022:
        path.chmod(0o700)
        about = path.stat()
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


def _load(library: Path, compiler: list[str]) -> ctypes.CDLL:
    checksum = library.with_suffix(".sha256")
    if not (library.exists() and checksum.exists() and checksum.read_text() == _sha256(library)):
        logger.warning("compiling the fused dense blocks for this processor, once")
        write_atomically(library, lambda path: _compile(compiler, path))
        library.chmod(0o600)
        write_text(checksum, _sha256(library))
    return ctypes.CDLL(str(library))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _key(compiler: list[str]) -> str:
    """Return a name for the library of these sources, compiler and processor.

    The compiler's predefined macros tell its own version and every set of instructions that it uses here.

    Raises:
        CannotCompile: the compiler cannot be run, or does not know the flags.
    """
    command = [*compiler, *_flags(), "-dM", "-E", "-x", "c++", "-"]
    try:
        told = subprocess.run(command, input="", capture_output=True, text=True)
    except OSError as error:
        raise CannotCompile(f"{compiler[0]} cannot be run: {error}") from None
    if told.returncode:
        raise _failed(compiler, told)
    texts = [source.read_text() for source in (*_HEADERS, *_SOURCES)]
    return hashlib.sha256("\n".join([*texts, *command, told.stdout]).encode()).hexdigest()[:24]


def _failed(compiler: list[str], result: subprocess.CompletedProcess[str]) -> CannotCompile:
    first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr[:200])
    return CannotCompile(f"{compiler[0]} cannot compile the steps: {first or f'exit status {result.returncode}'}")


def _flags() -> tuple[str, ...]:
    """Return the compiler's flags for this process, which has to ask the operating system before it uses AMX."""
    return (*_FLAGS, "-DMAY_USE_TILES") if torch.cpu._init_amx() else _FLAGS


def _compile(compiler: list[str], path: Path) -> None:
    """Compile the sources to a library at ``path``, whose work is shared by threads if the compiler knows OpenMP."""
    command = [*compiler, *_flags()]
    result = _make_library([*command, "-fopenmp"], _SOURCES, path)
    if result.returncode:
        with tempfile.TemporaryDirectory(prefix="densekit-") as scratch:
            least = Path(scratch, "least.cpp")
            least.write_text("#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n")
            knows_openmp = _make_library([*command, "-fopenmp"], [least], Path(scratch, "least.so")).returncode == 0
        if not knows_openmp:  # like Apple's; else it was stopped or the disk was full: a later try may succeed
            result = _make_library(command, _SOURCES, path)
    if result.returncode:
        raise _failed(compiler, result)


def _make_library(command: list[str], sources: list[Path], path: Path) -> subprocess.CompletedProcess[str]:
    """Compile the sources in parallel and link them; return the first step that failed, or else the last."""
    run = partial(subprocess.run, capture_output=True, text=True)
    with tempfile.TemporaryDirectory(prefix="densekit-") as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [f"{scratch}/{source.stem}.o" for source in sources]
        to_compile = [["-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)]
        results = list(pool.map(run, [[*command, *one] for one in to_compile]))
        failed = next((each for each in results if each.returncode), None)
        return failed or run([*command, "-shared", *objects, "-o", str(path)])
