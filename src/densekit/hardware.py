"""Where to compute, and in which precision."""

import os

import torch

from densekit.errors import SettingsError


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of a name: "auto" takes a GPU if there is one.

    Raises:
        SettingsError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {name!r} cannot be used ({reason}): try auto or cpu") from None
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16"; "auto" is bf16 where the hardware computes in it, else fp32."""
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise SettingsError("precision fp16 needs a GPU: use bf16 or fp32 on a CPU")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # AVX-512 alone emulates bf16 and is slower than fp32; AMX multiplies it in hardware
    amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bf16" if amx else "fp32"
