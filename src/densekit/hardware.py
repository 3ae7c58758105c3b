"""Where to compute, and in which precision."""

import os
import subprocess
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from densekit.errors import SettingsError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of a name: "auto" takes a GPU if there is one; of several processes each its own.

    Raises:
        SettingsError: no such device on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        name = "cuda"
    if str(name) == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {name!r} cannot be used ({reason}): try auto or cpu") from None
    if device.type == "meta":
        raise SettingsError("device 'meta' computes nothing: try auto or cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16"; "auto" is bf16 where the hardware computes in it, else fp32.

    Raises:
        SettingsError: no such precision, or not on this device.
    """
    if name not in PRECISIONS:
        raise SettingsError(f"precision {name!r}: use one of {', '.join(PRECISIONS)}")
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise SettingsError("precision fp16 needs a GPU: use bf16 or fp32 on a CPU")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and multiplies_bfloat16() else "fp32"  # what emulates it is slower than fp32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in "bf16" or "fp16"; of "fp32", one that changes nothing."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtypes[precision]) if precision in dtypes else nullcontext()


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16, and PyTorch uses them."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a program can still have on a device; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    import psutil

    return psutil.virtual_memory().available


@dataclass(frozen=True)
class Gpu:
    """A GPU as it is at the moment: free and total memory in bytes, load in percent (None: not known)."""

    device: str
    name: str
    free: int
    total: int
    load: int | None


def list_gpus() -> list[Gpu]:
    """Return the GPUs that PyTorch can use, in PyTorch's order."""
    loads, found = _nvidia_loads(), []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        load = loads.get(str(getattr(properties, "uuid", "")))
        found.append(Gpu(f"cuda:{index}", properties.name, free, total, load))
    return found


def _nvidia_loads() -> dict[str, int]:
    """Return the load of every NVIDIA GPU by its uuid; empty where the driver's tool is not there."""
    command = ["nvidia-smi", "--query-gpu=uuid,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.removeprefix("GPU-").partition(", ") for line in lines)  # PyTorch leaves the prefix out
    return {uuid: int(load) for uuid, _, load in pairs if load.strip().isdigit()}
