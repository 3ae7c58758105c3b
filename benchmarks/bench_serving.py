"""How many pictures a second densekit serve answers, with one client and with many at once.

    python benchmarks/bench_serving.py [--runs 7] [--clients 1 16] [--write]

DenseNet-121 with random weights, photographs of 640x480 as JPEG, one in a request. Servers take turns. "one at a time"
is a server whose batches hold a single picture: what the others gain over it is what answering waiting requests
together brings.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image

from common import interleave, setting, summarise, write_classifier, write_results

SERVERS = {
    "fused": [],
    "fused, bfloat16": ["--precision", "bf16"],
    "fused, one at a time": ["--batch-size", "1"],
    "stock": ["--no-fused"],
}
REQUESTS = 48  # of each measurement


def photograph() -> bytes:
    """A smooth picture with some noise: as large a file as a photograph of its size."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)).astype(float)
    noisy = smooth + np.random.default_rng(1).normal(0, 8, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def running(folder: Path, options: list[str]) -> Iterator[str]:
    """Start a server; its address."""
    command = [str(Path(sys.executable).with_name("densekit")), "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stderr
        address = next(filter(None, (re.search(r"http://\S+", line) for line in process.stderr)))
        drain = ThreadPoolExecutor(1).submit(process.stderr.read)  # else its log fills the pipe, and it waits
        try:
            yield address[0]
        finally:
            process.terminate()
            drain.result()


def ask(client: httpx2.Client, address: str, picture: bytes, clients: int) -> None:
    """Send all requests, so many at a time."""

    def once(_: int) -> None:
        client.post(f"{address}/predict", files={"pictures": ("a.jpg", picture)}).raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(once, range(REQUESTS)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a server answers.")
    parser.add_argument("--runs", type=int, default=7, help="of each server, after one to warm up")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="requests at the same time")
    parser.add_argument("--write", action="store_true", help="write results/serving.csv")
    arguments = parser.parse_args()

    where, rows = setting("torch", "fastapi", "uvicorn"), []
    print(*(f"{name} {value}" for name, value in where.items()), sep=", ")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_classifier(Path(folder))
        servers = {name: stack.enter_context(running(Path(folder), options)) for name, options in SERVERS.items()}
        client, picture = stack.enter_context(httpx2.Client(timeout=120)), photograph()
        for clients in arguments.clients:
            asks = {
                name: lambda address=address, clients=clients: ask(client, address, picture, clients)
                for name, address in servers.items()
            }
            interleave(asks, 1)
            for name, seconds in interleave(asks, arguments.runs).items():
                rates = [REQUESTS / duration for duration in seconds]
                rows.append({**where, "server": name, "clients": clients, **summarise(rates, "pictures_per_s")})
                print(
                    f"{clients:>3} clients  {name:<22} {rows[-1]['median_pictures_per_s']:>7.1f} pictures/s", flush=True
                )
    if arguments.write:
        print(f"written to {write_results('serving', rows)}")


if __name__ == "__main__":
    main()
