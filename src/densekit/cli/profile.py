"""densekit profile."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from densekit.cli.options import Device, Quiet, Several

Switch = Annotated[bool, Parameter(negative="")]
Size = Annotated[
    list[str] | None,
    Several,
    Parameter(
        help="Pixels: one number, or HEIGHTxWIDTH. Memory is predicted for all sizes, the first is also measured. "
        "[what each network was made for]"
    ),
]


def profile(
    *models: str,
    size: Size = None,
    batch: Annotated[list[int] | None, Several] = None,
    memory: str | None = None,
    fused: Switch = False,
    seconds: float = 10.0,
    plot: Path | None = None,
    format: Literal["table", "csv", "json"] = "table",
    gpus: Switch = False,
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure what networks cost before they are trained: parameters, multiply-adds, memory and time, side by side.

    Parameters
    ----------
    models
        Names from `densekit models`, run folders, torchvision:NAME, timm:NAME.
    batch
        Pictures per step. Memory is predicted for all batches, the first is also measured. [16]
    memory
        Also print the largest batch that fits into this, e.g. 8GB.
    fused
        Also measure every DenseNet with densekit.fuse.
    seconds
        Seconds to time each network; at least three rounds are timed.
    plot
        Also draw where parameters, arithmetic, time and memory are, as PNG, SVG or PDF.
    format
        Format of the figures on standard output.
    gpus
        Only list the GPUs, with free memory and load.
    precision
        Precision of the arithmetic.
    """
    from densekit.console import Screen
    from densekit.errors import SettingsError
    from densekit.profiling import report
    from densekit.profiling.plot import check_plot, draw_profiles
    from densekit.profiling.profile import profile as run_profile

    if gpus:
        _print_gpus()
        return
    sizes, batches, budget = [_size(text) for text in size or []], batch or [16], _bytes(memory)
    if min(batches) < 1:
        raise SettingsError(f"--batch {min(batches)}: a batch has 1 picture or more")
    if plot is not None:
        check_plot(plot)
    screen = Screen(quiet=quiet)
    options = {
        "sizes": sizes,
        "fused": fused,
        "seconds": seconds,
        "device": device,
        "precision": precision,
        "screen": screen,
    }
    profiles = run_profile(models, batch=batches[0], **options)
    if plot is not None:
        draw_profiles(plot, profiles)
    writers = {"table": report.profile_table, "csv": report.profile_csv, "json": report.profile_json}
    print(writers[format](profiles, batches, budget), end="")
    if plot is not None:
        screen.say(f"picture: {plot}")


def _size(text: str) -> int | tuple[int, int]:
    from densekit.errors import SettingsError

    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise SettingsError(f"--size {text}: give pixels, such as 224, or HEIGHTxWIDTH, such as 240x320")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _bytes(text: str | None) -> int | None:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from densekit.errors import SettingsError

    if text is None:
        return None
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise SettingsError(f"--memory {text}: give an amount with its unit, such as 8GB, 7.5GiB or 900MB") from None


def _print_gpus() -> None:
    import torch

    from densekit.hardware import list_gpus

    gpus = list_gpus()
    if not gpus:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        print(f"no GPU: PyTorch {torch.__version__} is built {built} and finds none; --device auto takes the CPU")
    for gpu in gpus:
        load = "load unknown" if gpu.load is None else f"load {gpu.load:>3} %"
        print(f"{gpu.device:<7} {gpu.name}  {gpu.free / 1e9:.1f} GB free of {gpu.total / 1e9:.1f} GB  {load}")
