"""Where the Triton kernels are chosen, and what is said where they cannot run."""

import os
import subprocess
import sys

import pytest
import torch

import densekit.engine
from densekit.engine.choose_ops import choose_ops
from densekit.errors import SettingsError


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    choose_ops.cache_clear()
    yield
    choose_ops.cache_clear()


def devices_are(monkeypatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])


def refused(reason: str) -> None:
    """Assert that "triton" is refused for this reason, in one line."""
    with pytest.raises(SettingsError, match=rf"^engine 'triton' cannot run on cuda: {reason}.*; try auto or torch$"):
        choose_ops("triton", "cuda")


def test_only_a_cuda_device_will_do():
    for device in ("cpu", "mps"):
        reason = f"cannot run on {device}: it needs a CUDA device, with the network on it; try auto or torch"
        with pytest.raises(SettingsError, match=f"^engine 'triton' {reason}$"):
            choose_ops("triton", device)
        assert choose_ops("auto", device).name != "triton"


def test_no_device(monkeypatch):
    devices_are(monkeypatch)
    refused("there is no such device")


def test_the_oldest_device_decides(monkeypatch):
    devices_are(monkeypatch, (9, 0), (7, 5))
    refused("it needs compute capability 8.0, there is 7.5")


def test_without_triton(monkeypatch):
    devices_are(monkeypatch, (9, 0))
    monkeypatch.setitem(sys.modules, "triton", None)
    for module in ("ops_triton", "triton_launchers", "triton_kernels"):
        monkeypatch.delitem(sys.modules, f"densekit.engine.{module}", raising=False)
        monkeypatch.delattr(densekit.engine, module, raising=False)
    refused("the package triton is missing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where the first kernel runs")
def test_a_first_kernel_that_fails(monkeypatch):
    pytest.importorskip("triton")
    devices_are(monkeypatch, (9, 0))
    refused("a first kernel failed: ")


def test_who_computes_on_a_cpu_never_imports_triton():
    script = (
        "import sys; from densekit.engine.choose_ops import choose_ops; choose_ops('auto', 'cpu');"
        "print('triton' in sys.modules, 'densekit.engine.ops_triton' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True)
    assert ran.stdout == "False False\n", ran.stdout + ran.stderr
