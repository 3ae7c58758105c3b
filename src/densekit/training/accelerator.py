"""accelerate's handle for devices, mixed precision and processes."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """Return accelerate's handle for devices, mixed precision and processes.

    accelerate keeps the first one's choices for the life of the process; they are dropped here, because one process
    may train several times.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # accelerate's way to be told one of several GPUs
    try:
        return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision)
    finally:
        del os.environ["ACCELERATE_TORCH_DEVICE"]
