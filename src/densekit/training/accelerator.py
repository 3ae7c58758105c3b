"""accelerate's handle for devices, mixed precision and processes."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler

_PATIENCE = timedelta(hours=2)  # of the other processes, while the main one notes every picture of a large data set


def make_accelerator(device: torch.device, precision: str, *, freezes: bool = False) -> Accelerator:
    """Return accelerate's handle for devices, mixed precision and processes.

    accelerate keeps the first one's choices for the life of the process; they are dropped here, because one process
    may train several times.

    Args:
        device: where to compute.
        precision: "fp32", "bf16" or "fp16".
        freezes: whether some parameters learn in some epochs only, which several processes must look out for.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # accelerate's way to be told one of several GPUs
    mixed = "no" if precision == "fp32" else precision
    handlers: list[KwargsHandler] = [
        DistributedDataParallelKwargs(find_unused_parameters=freezes),
        InitProcessGroupKwargs(timeout=_PATIENCE),
    ]
    try:
        return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed, kwargs_handlers=handlers)
    finally:
        del os.environ["ACCELERATE_TORCH_DEVICE"]
