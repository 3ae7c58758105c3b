"""The twins in Keras (TensorFlow, JAX) and in MXNet against PyTorch, each in the framework's own environment."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.console import Screen
from densekit.errors import CheckpointError
from densekit.export import twins
from densekit.export.export import export_run
from densekit.export.twins import describe
from densekit.runtimes import framework_worker
from densekit.runtimes.exported import open_exported

ENVIRONMENTS = os.environ.get("DENSEKIT_FRAMEWORKS")
pytestmark = [
    pytest.mark.skipif(not ENVIRONMENTS, reason="needs TensorFlow, JAX and MXNet: make test-frameworks"),
    pytest.mark.timeout(900),  # a framework starts and compiles for a long time where others compute too
]

FILES = {"keras": "model.keras", "mxnet": "model-symbol.json"}
TARGET = {"tensorflow": "keras", "jax": "keras", "mxnet": "mxnet"}

SMALL = {"block_config": [2, 2], "growth_rate": 8, "num_init_features": 16}
# together they have every option of the DenseNets
NETWORKS = {
    "bottlenecks": ({**SMALL, "memory_efficient": True}, 3, ((32, 32), (33, 38))),
    "plain": (
        {"block_config": [2, 1, 2], "growth_rate": [4, 6, 8], "bn_size": None, "stem": "cifar", "activation": "tanh"},
        1,
        ((28, 28), (17, 23)),
    ),
    "everything else": (
        {
            **SMALL,
            "activation": "leaky_relu",  # leaves negative values, which a zero beside the picture would beat
            "groups": 2,
            "se_reduction": 4,
            "pooling": "max",
            "compression": 0.8,
            "drop_rate": 0.2,
            "bn_size": 2,
        },
        3,
        ((30, 31),),
    ),
    "prelu": ({"block_config": [1, 1], "growth_rate": 4, "activation": "prelu"}, 3, ((32, 32),)),
    "sigmoid": ({"block_config": [1], "growth_rate": 4, "activation": "sigmoid"}, 3, ((32, 32),)),
}


@pytest.fixture(scope="module", params=TARGET)
def target(request) -> Iterator[str]:
    """Point densekit to one of the environments; returns what to export to."""
    framework = request.param
    target = TARGET[framework]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"DENSEKIT_{target.upper()}_PYTHON", f"{ENVIRONMENTS}/{framework}/bin/python")
        patch.setenv("KERAS_BACKEND", framework)
        yield target


@pytest.fixture(scope="module")
def computed(target, make, tmp_path_factory) -> Path:
    """A folder for each network, with pictures, what PyTorch made of them, and what the framework did.

    It is filled by one process that sees nothing of densekit but two files.
    """
    root = tmp_path_factory.mktemp(target)
    for name, (options, channels, sizes) in NETWORKS.items():
        classifier = make("densenet121", in_channels=channels, **options)
        case = root / name
        case.mkdir()
        describe(classifier, target, case)
        for number, size in enumerate(sizes):
            pictures = torch.randn(number + 2, channels, *size)
            with torch.no_grad():
                logits = classifier.network(pictures)
            np.savez(case / f"{number}.in.npz", pictures=pictures.numpy(), logits=logits.numpy())
    shutil.copy(Path(twins.__file__).with_name(f"to_{target}.py"), root)
    shutil.copy(framework_worker.__file__, root)
    python = os.environ[f"DENSEKIT_{target.upper()}_PYTHON"]
    subprocess.run([python, Path(__file__).with_name("compute_twins.py"), target, root], check=True)
    return root


@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_computes_pytorchs_logits(name, computed):
    for number in range(len(NETWORKS[name][2])):
        wanted = np.load(computed / name / f"{number}.in.npz")["logits"]
        given = np.load(computed / name / f"{number}.out.npy")
        # the logits are about 1, and float32 rounds at 6e-8 of every value on the way there
        np.testing.assert_allclose(given, wanted, atol=5e-6, rtol=0)


def test_a_run_is_exported_and_used(target, make, colours, tmp_path):
    """From the run folder to predictions by way of the framework, through the code that a user runs."""
    run = tmp_path / "run"
    classifier = make("densenet121", block_config=[1, 1], growth_rate=4)
    replace(classifier, classes=("deep blue", "grün", "red", "white")).save(run)
    exported = export_run(run, to=target, data=colours / "test", screen=Screen(quiet=True))
    assert exported.comparison.pictures == 25
    assert exported.comparison.agreement == 1
    assert exported.comparison.largest_logit_difference < 1e-5
    assert exported.folder == run / "exports" / target
    assert exported.file.exists()


def test_a_damaged_file_is_named(target, tmp_path):
    path = Path(tmp_path / FILES[target])
    path.write_text("no network")
    with pytest.raises(CheckpointError, match=rf"^{path} cannot be opened by {target}: .+Error.+"):
        open_exported(tmp_path, {"target": target, "file": path.name})
