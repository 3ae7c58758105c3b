import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from densekit.console import Screen
from densekit.data.datasets import open_data
from densekit.models.densenet import DenseNet
from densekit.training.accelerator import make_accelerator
from densekit.training.build import new_job, new_state
from densekit.training.reporter import Reporter
from densekit.training.resolve import new_classifier, normalise, resolve
from densekit.training.run_folder import new_run_folder
from densekit.training.settings import make_settings
from densekit.training.train import train


@pytest.fixture(autouse=True, scope="session")
def always_one_thread(one_thread):
    """The order of sums depends on the number of threads; here and in the runs of `start_python` it is one."""


@pytest.fixture
def screen():
    """A screen that records what it shows: ``screen.console.export_text()``."""
    return Screen(console=Console(file=io.StringIO(), record=True, width=1000))


@pytest.fixture(scope="session")
def tiny():
    """Settings of a run that takes no time: 50 digits to train on, 10 to validate, a network of two layers."""
    options = {"block_config": [1, 1], "growth_rate": 8, "bn_size": None, "num_init_features": 8}
    return {
        "data": "digits",
        "limit_per_class": 6,
        "model": "densenet40_k12_cifar",
        "model_options": options,
        "batch_size": 16,
        "epochs": 2,
        "device": "cpu",
        "precision": "fp32",
        "workers": 0,
        "tensorboard": False,
    }


@pytest.fixture
def train_tiny(tiny, tmp_path, screen):
    """Train as a user does: ``train_tiny(epochs=1) -> Run`` in the folder "run"."""

    def run(out="run", **settings):
        return train(out=tmp_path / out, screen=screen, **{**tiny, **settings})

    return run


@pytest.fixture
def make_job(tiny, tmp_path, screen):
    """Put a run together without starting it: ``make_job(optimizer="adam") -> Job``."""

    def make(out="job", **settings):
        chosen = make_settings(**{**tiny, **settings})
        dataset = open_data(
            chosen.data, limit_per_class=chosen.limit_per_class, val_fraction=chosen.val_fraction, screen=screen
        )
        resolved, preprocessing = normalise(*resolve(chosen, dataset), dataset)
        classifier = new_classifier(resolved, preprocessing, dataset)
        accelerator = make_accelerator(torch.device("cpu"), resolved.precision)
        state = new_state(classifier, resolved, accelerator)
        run = new_run_folder(tmp_path / out, resolved)
        reporter = Reporter(run, resolved, [], screen, 0)
        return new_job(resolved, state, classifier, dataset.train, dataset.val, accelerator, run, reporter, screen)

    return make


@pytest.fixture
def forwards(monkeypatch):
    """Every pass through a whole DenseNet from here on, as (network, input, logits)."""
    seen, forward = [], DenseNet.forward

    def note(network, x):  # no hook: with one on all modules, fused blocks would run as stock ones
        logits = forward(network, x)
        seen.append((network, x, logits))
        return logits

    monkeypatch.setattr(DenseNet, "forward", note)
    return seen


@pytest.fixture
def make_folder(tmp_path):
    """Write pictures whose class shows in their brightness: ``make_folder({"train/cat": 3, "val/cat": 1})``."""

    def make(counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
        random = np.random.default_rng(0)
        root = tmp_path / "pictures"
        classes = sorted({Path(folder).name for folder in counts})
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            low = 160 * classes.index(Path(folder).name) // len(classes)
            for i in range(count):
                Image.fromarray(random.integers(low, low + 96, size, dtype=np.uint8)).save(root / folder / f"{i}.png")
        return root

    return make


@pytest.fixture(scope="session")
def start_python():
    """Start a Python of its own: ``start_python(script, values)``; the script finds ``values``, by name."""
    started = []

    def start(script, values, **environment):
        preamble = f"import json\nglobals().update(json.loads({json.dumps(json.dumps(values))}))\n"
        process = subprocess.Popen(
            [sys.executable, "-c", preamble + script],
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def run_in_two_processes(start_python):
    """Run a script in two processes that find each other, as under torchrun; return what each has printed."""

    def run(script, values):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        # threads of PyTorch's may abort an interpreter that ends while the other process does; all is written by then
        leave = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
        processes = [start_python(script + leave, values, RANK=rank, LOCAL_RANK=rank, **common) for rank in ("0", "1")]
        texts = [process.communicate(timeout=250)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(texts)
        return texts

    return run
