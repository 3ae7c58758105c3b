import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

import pytest
from rich.console import Console
from torch.nn.modules.module import register_module_forward_pre_hook

from densekit.console import Screen


@pytest.fixture(autouse=True, scope="session")
def always_one_thread(one_thread):
    """For all tests of this folder."""


@pytest.fixture
def screen():
    """A screen that records what it shows: ``screen.console.export_text()``."""
    return Screen(console=Console(file=io.StringIO(), record=True, width=1000))


@pytest.fixture(scope="session")
def tiny():
    """Settings of runs that take no time: 50 digits to train on, 10 to validate, a network of two layers."""
    return {
        "data": "digits",
        "limit_per_class": 6,
        "limit_test_per_class": 3,
        "model": "densenet40_k12_cifar",
        "model_options": {"block_config": [1, 1], "bn_size": None, "num_init_features": 8},
        "batch_size": 25,
        "epochs": 1,
        "lr": 0.05,
        "device": "cpu",
        "precision": "fp32",
        "workers": 0,
        "tensorboard": False,
    }


@pytest.fixture
def training_passes():
    """Count the training passes through whole networks; ``passes.at = (7, act)`` acts before the seventh."""

    class Passes:
        count, at = 0, (0, lambda: None)

    def note(module, _):
        if hasattr(module, "architecture") and module.training and next(module.parameters()).device.type != "meta":
            Passes.count += 1
            if Passes.count == Passes.at[0]:
                Passes.at[1]()

    handle = register_module_forward_pre_hook(note)
    yield Passes
    handle.remove()


@pytest.fixture
def start_python():
    """Start a Python of its own: ``start_python(script, values)``; the script finds ``values``, by name."""
    started = []

    def start(script, values):
        preamble = f"import json\nglobals().update(json.loads({json.dumps(json.dumps(values))}))\n"
        process = subprocess.Popen(
            [sys.executable, "-c", preamble + script],
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def shared_storage(tmp_path_factory):
    """URL of a database that processes share: a PostgreSQL of its own where one is installed, else SQLite."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        print("no PostgreSQL in /usr/lib/postgresql: the workers share SQLite instead")
        yield f"sqlite:///{tmp_path_factory.mktemp('storage') / 'trials.sqlite'}"
        return
    folder = Path(tempfile.mkdtemp(prefix="densekit-postgresql-"))  # pytest's own folders are closed to other users
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        subprocess.run(["chown", "postgres", folder], check=True)
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    control = [*as_user, programs / "pg_ctl", "-D", folder / "data"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [*control, "initdb", "-o", "--auth=trust --username=densekit --no-sync --no-locale --encoding=UTF8"], **quiet
    )
    subprocess.run([*control, "-w", "-l", folder / "log", "-o", options, "start"], **quiet)
    try:
        yield f"postgresql://densekit@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        rmtree(folder)
