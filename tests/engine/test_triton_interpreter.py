"""The Triton kernels in Triton's interpreter, on any machine that has Triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = [Path(__file__).with_name(name) for name in ("test_ops_triton.py", "test_triton_blocks.py", "test_layers.py")]


@pytest.mark.timeout(900)  # all of these files; half a minute where nothing else runs
def test_the_kernels_compute_what_the_plain_steps_do():
    """In a process of its own: whether Triton interprets is settled when it is first imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, TESTS)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, env=environment, cwd=TESTS[0].parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
