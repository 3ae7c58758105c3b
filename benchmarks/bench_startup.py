"""How long a command line takes to answer --help and to predict, beside the start of Python and of torch.

    python benchmarks/bench_startup.py [--runs 20] [--write]

The commands take turns, so that whatever else the machine does hits them alike. Promise: --help in less than half a
second. `densekit predict` names one picture with an untrained densenet121.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from common import setting, summarise, write_classifier, write_results

# compiled modules are kept, as everywhere but on machines set up for development
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
DENSEKIT = str(Path(sys.executable).with_name("densekit"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "densekit --help": [DENSEKIT, "--help"],
    "densekit train --help": [DENSEKIT, "train", "--help"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import torchvision'": [sys.executable, "-c", "import torchvision"],
    "densekit predict": [DENSEKIT, "predict", ".", "picture.png", "--device", "cpu"],
}


def wall_time(command: list[str], folder: str) -> float:
    """Seconds from start to end of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the start of the command line.")
    parser.add_argument("--runs", type=int, default=20, help="of each command, after one that warms up")
    parser.add_argument("--write", action="store_true", help="write results/startup.csv")
    arguments = parser.parse_args()

    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        write_classifier(Path(folder))
        Image.new("RGB", (640, 480)).save(Path(folder) / "picture.png")
        for turn in range(arguments.runs + 1):
            for name, command in COMMANDS.items():
                seconds = wall_time(command, folder)
                if turn:  # the first reads files from the disk
                    samples[name].append(seconds)

    where = setting("cyclopts", "pydantic", "torch", "torchvision")
    print(*(f"{name} {value}" for name, value in where.items()), sep=", ")
    rows = [{**where, "command": name, **summarise(times, "s")} for name, times in samples.items()]
    for row in rows:
        spread = f"quartiles {row['q1_s']:.3f} to {row['q3_s']:.3f} s"
        print(f"{row['command']:<32} median {row['median_s']:.3f} s, {spread}")
    if arguments.write:
        print(f"written to {write_results('startup', rows)}")


if __name__ == "__main__":
    main()
