"""A .pt2 file is of use where densekit is not."""

import subprocess
import sys

import numpy as np
import torch

from densekit.export.targets import Options
from densekit.export.to_torch import write_torch

WITHOUT = """
import sys
sys.modules["densekit"] = None
import numpy, torch
network = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    numpy.save(sys.argv[3], network(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
assert not [name for name in sys.modules if name.startswith("densekit.")]
"""


def test_runs_in_a_process_without_densekit(make, tmp_path):
    classifier = make("se_densenet_bc100_k12_cifar", block_config=[1, 2])
    path = write_torch(classifier, tmp_path, Options())
    pictures = torch.randn(3, 3, 32, 32)
    np.save(tmp_path / "in.npy", pictures.numpy())
    names = [str(path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = classifier.network(pictures)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "out.npy")), expected, rtol=1e-4, atol=1e-4)
