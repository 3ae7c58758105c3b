"""One dense block, forward and backward: fused by each engine that runs here, and stock.

    python benchmarks/bench_dense_block.py [--batch 16] [--precisions fp32 bf16] [--runs 7] [--device cpu]
        [--write NAME]

The four blocks of DenseNet-121 at 224x224, one after the other; the engines take turns.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import densekit as dk
from common import interleave, setting, summarise, write_results
from densekit.errors import SettingsError
from densekit.models.dense_block import DenseBlock

BLOCKS = [(6, 64, 56), (12, 128, 28), (24, 256, 14), (16, 512, 7)]  # layers, channels, side
ENGINES = ("torch", "cpu", "triton")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def versions_of(block: nn.Module) -> dict[str, nn.Module]:
    """Return the block as it is and fused by every engine that can run."""
    versions = {"stock": block}
    for engine in ENGINES:
        try:
            versions[engine] = dk.fuse(copy.deepcopy(block), engine)
        except SettingsError:
            continue
    return versions


def make_pass(block: nn.Module, size: tuple[int, ...], dtype: torch.dtype, device: str) -> Callable[[], None]:
    """Return a function that runs the block forward and backward, to its end."""
    x = torch.randn(size, device=device).to(dtype=dtype, memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(block(x))

    def both_ways() -> None:
        block(x).backward(upstream)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    return both_ways


def main() -> None:
    parser = argparse.ArgumentParser(description="Time dense blocks, fused and stock.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", metavar="NAME", help="write results/NAME.csv")
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for precision in arguments.precisions:
        dtype = DTYPES[precision]
        for layers, channels, side in BLOCKS:
            block = DenseBlock(layers, channels, 32).to(arguments.device, dtype, memory_format=torch.channels_last)
            size = (arguments.batch, channels, side, side)
            passes = {
                name: make_pass(version, size, dtype, arguments.device) for name, version in versions_of(block).items()
            }
            interleave(passes, 1)
            samples = interleave(passes, arguments.runs)
            what = {"layers": layers, "channels": channels, "side": side, "batch": arguments.batch}
            stock = summarise(samples["stock"], "s")["median_s"]
            for engine, times in samples.items():
                row = {"precision": precision, **what, "engine": engine, **summarise(times, "s")}
                row["times_stock"] = round(stock / row["median_s"], 2)
                rows.append(row)
                print(f"{precision} {layers} layers on {channels}x{side}x{side}: {engine:<6} {row['median_s']:.4f} s "
                      f"({row['q1_s']:.4f} to {row['q3_s']:.4f}), {row['times_stock']:.2f} times stock")  # fmt: skip
    where = setting("torch")
    if arguments.device != "cpu":
        where["machine"] = torch.cuda.get_device_name(arguments.device)
    if arguments.write:
        print(f"written to {write_results(arguments.write, [{**where, **row} for row in rows])}")


if __name__ == "__main__":
    main()
