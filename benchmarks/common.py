"""What every benchmark shares: which machine, which versions, median and spread, and the table of results."""

import csv
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Any

RESULTS = Path(__file__).parent / "results"


def setting(*packages: str) -> dict[str, Any]:
    """Where and with what a benchmark ran: the first columns of its table.

    Args:
        packages: installed packages that matter, named with their versions; densekit always is.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {cores} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("densekit", *packages)},
    }


def summarise(samples: Sequence[float], unit: str) -> dict[str, Any]:
    """Count, median and spread (first and third quartile) of two or more measurements, as columns of a table.

    >>> summarise([1.0, 2.0, 9.0, 3.0, 2.5], "s")
    {'runs': 5, 'median_s': 2.5, 'q1_s': 2.0, 'q3_s': 3.0}
    """
    low, median, high = (float(f"{value:.4g}") for value in quantiles(samples, n=4, method="inclusive"))
    return {"runs": len(samples), f"median_{unit}": median, f"q1_{unit}": low, f"q3_{unit}": high}


def interleave(
    functions: Mapping[str, Callable[[], Any]], runs: int, *, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of every function, called in turns, so that whatever else the machine does hits them alike.

    Args:
        functions: what is measured.
        runs: of each.
        settle: call each once more before it is measured: by then its own weights are in the caches, and the threads
            of the runtime before it, which go on looking for work for a while, have gone to sleep.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            if settle:
                function()
            start = time.perf_counter()
            function()
            samples[name].append(time.perf_counter() - start)
    return samples


def write_results(name: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows with the same columns to results/NAME.csv, in place of what was there."""
    rows = list(rows)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _processor() -> str:
    """The processor's name; Linux does not tell it to `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_classifier(folder: Path) -> None:
    """A densenet121 with random weights, for ten classes."""
    from densekit import Classifier, create_model
    from densekit.data.preprocessing import Preprocessing

    network = create_model("densenet121", num_classes=10)
    Classifier(network, tuple("abcdefghij"), Preprocessing(size=(224, 224), resize="crop")).save(folder)
