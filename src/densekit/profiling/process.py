"""Memory of a training step as the operating system or the GPU sees it, measured in a process of its own."""

import json
import os
import sys
from subprocess import run
from typing import NamedTuple

import torch
from torch import nn

from densekit.errors import SettingsError
from densekit.profiling.step import Steps
from densekit.profiling.subject import Size, Subject, find_subject


class Usage(NamedTuple):
    """Bytes: what the process took before there was a network, and how much more it took at its highest."""

    idle: int
    peak: int


def measure_memory(subject: Subject, batch: int, size: Size, device: torch.device, precision: str) -> Usage | None:
    """Take a training step in a process of its own, and see how much memory that takes.

    On a GPU the peak is PyTorch's count of it, and nothing counts as idle. On a CPU (of Linux) it is the resident
    set. The C library is told to hand back at once what is freed: by itself glibc keeps it, holes included, and the
    same step takes up to half more.

    Returns:
        None where the platform does not tell, and of a network that only this process has.

    Raises:
        SettingsError: the process did not survive, most likely for want of memory.
    """
    if not subject.by_name or (device.type != "cuda" and not (device.type == "cpu" and sys.platform == "linux")):
        return None
    task = json.dumps([subject.name, subject.fused, batch, size, str(device), precision])
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    # -P: a file in the user's folder must not pass for a module
    command = [sys.executable, "-P", "-m", "densekit.profiling.process", task]
    done = run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        height, width = size
        said = done.stderr.strip().splitlines()[-1:] or ["killed, most likely for want of memory"]
        raise SettingsError(f"{subject.label} with {batch} pictures of {height}x{width}: {said[0]}")
    return Usage(*json.loads(done.stdout.splitlines()[-1]))


def _take_step(name: str, fused: bool, batch: int, size: Size, device_name: str, precision: str) -> Usage:
    device = torch.device(device_name)
    _load_libraries(device)
    idle = _resident("VmRSS") if device.type == "cpu" else 0
    steps = Steps(find_subject(name, fused=fused), device, precision)
    steps.train(steps.pictures(batch, size))
    peak = _resident("VmHWM") if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return Usage(idle, peak - idle)


def _load_libraries(device: torch.device) -> None:
    """Run every usual operation once: program code that is read in belongs to no network.

    The first optimizer imports torch's compiler, which is some 200 MB.
    """
    small = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 8)
    ).to(device)
    small(torch.randn(2, 3, 4, 4, device=device)).sum().backward()
    torch.optim.SGD(small.parameters()).step()


def _resident(entry: str) -> int:
    """Return an entry of this process's memory in bytes; VmHWM is the highest VmRSS so far."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


if __name__ == "__main__":
    print(json.dumps(_take_step(*json.loads(sys.argv[1]))))
