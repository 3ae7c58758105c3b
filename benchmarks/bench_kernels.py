"""Bandwidth of the fused block's steps on a GPU: bytes that have to move, over the time that a step takes.

    python benchmarks/bench_kernels.py [--batch 256] [--runs 20] [--write]

The steps are those of four layers of DenseNet-121 at 224x224 pixels, one in the middle of each block, and of the three
transitions, in bfloat16. The bytes are those of each matrix that goes in or out of the device's memory, once; vectors,
weights and sums of tiles are left out. What a device's cache holds, as in the last block, moves faster than memory. The
Triton kernels and plain PyTorch take turns and count the same bytes, however many PyTorch moves. What Python needs to
launch the steps is not in these figures but in those of bench_dense_block.py and bench_train_step.py.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch

from common import setting, summarise, write_results
from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.choose_ops import choose_ops
from densekit.engine.ops import TorchOps
from densekit.errors import SettingsError

BOTTLENECK, GROWTH = 128, 32
BLOCKS = ((56, 160, 256), (28, 320, 512), (14, 640, 1024), (7, 768, 1024))  # side, channels read, channels in all
TYPE = torch.bfloat16
CALLS = 10  # timed together
AHEAD = 20_000_000  # cycles, 10 ms or more


def steps(ops: TorchOps, batch: int, side: int, c: int, channels: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Yield name, bytes and call of every step of one layer, and of the transition behind its block."""
    shape = (batch, side, side, channels)
    features, gradient = (torch.randn(shape, dtype=TYPE, device="cuda").view(-1, channels) for _ in range(2))
    P, m, size = len(features), BOTTLENECK, TYPE.itemsize
    x, g = features[:, :c], gradient[:, :c]
    z, dz = (torch.randn(P, m, dtype=TYPE, device="cuda") for _ in range(2))
    new = torch.randn(P, GROWTH, dtype=TYPE, device="cuda")
    weight = torch.randn(m, c, dtype=TYPE, device="cuda")
    of_x, of_z, of_all = (FoldedNorm(*torch.ones(4, n, device="cuda")) for n in (c, m, channels))
    terms = torch.zeros(2, m, device="cuda")
    onto = {"source": g, "out": g, "needs_dweight": True}
    yield "tile_moments", 2 * P * GROWTH * size, lambda: ops.batch_moments(new, features[:, -GROWTH:])
    yield "bnrelu_conv1x1", P * (c + m) * size, lambda: ops.bnrelu_conv1x1(x, of_x, weight, with_moments=True)
    yield "bnrelu", 2 * P * m * size, lambda: ops.bnrelu(z, of_z, out=dz)
    yield "drelu_sums", 3 * P * m * size, lambda: ops.drelu_sums(dz, z, of_z, out=dz)
    yield "bn_gradient", 3 * P * m * size, lambda: ops.bn_gradient(dz, z, of_z, terms, out=dz)
    yield "conv1x1_backward", P * (3 * c + m) * size, lambda: ops.conv1x1_backward(dz, weight, x, of_x, **onto)
    if side > 7:  # no transition behind the last block
        pictures = features.view(shape)
        pooled = ops.bnrelu_avg_pool(pictures, of_all, TYPE)
        yield "bnrelu_avg_pool", P * channels * size * 5 // 4, lambda: ops.bnrelu_avg_pool(pictures, of_all, TYPE)
        bytes_back = P * channels * size * 9 // 4
        yield "bnrelu_avg_pool_backward", bytes_back, lambda: ops.bnrelu_avg_pool_backward(pooled, pictures, of_all)


def seconds(call: Callable[[], Any]) -> float:
    """Time of a call on the device, without that of launching it.

    The device is kept busy while Python hands it the calls: a step of the last blocks takes it a few microseconds, a
    launch takes Python more, and would be all that is measured.
    """
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(AHEAD)
    start.record()
    for _ in range(CALLS):
        call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1000 / CALLS


def measure(batch: int, runs: int) -> Iterator[dict[str, Any]]:
    """Yield a row per step, block and implementation."""
    engines = ("triton", "torch")
    for number, (side, c, channels) in enumerate(BLOCKS, start=1):
        both = [steps(choose_ops(engine, "cuda").ops, batch, side, c, channels) for engine in engines]
        for contenders in zip(*both, strict=True):
            times: list[list[float]] = [[] for _ in engines]
            for turn in range(runs + 3):
                for (_, _, call), samples in zip(contenders, times, strict=True):
                    taken = seconds(call)
                    if turn >= 3:  # the first ones compile and take memory
                        samples.append(taken)
            for engine, (step, count, _), samples in zip(engines, contenders, times, strict=True):
                row = {"block": number, "step": step, "engine": engine, "megabytes": round(count / 1e6, 1)}
                rates = [count / 1e9 / taken for taken in samples]
                yield {**row, **summarise(samples, "s"), "median_GB_per_s": summarise(rates, "")["median_"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the bandwidth of the fused block's steps on a GPU.")
    parser.add_argument("--batch", type=int, default=256, help="pictures")
    parser.add_argument("--runs", type=int, default=20, help="of each step, after three that warm up; two at least")
    parser.add_argument("--write", action="store_true", help="write results/kernels.csv")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "there is no CUDA device here: nothing to measure\n")
    try:
        choose_ops("triton", "cuda")
    except SettingsError as reason:
        parser.exit(1, f"{reason}\n")

    where = {**setting("torch", "triton"), "device": torch.cuda.get_device_name(), "batch": arguments.batch}
    rows = []
    for row in measure(arguments.batch, arguments.runs):
        rows.append({**where, **row})
        print(f"block {row['block']} {row['step']:<22} {row['engine']:<7} {row['median_GB_per_s']:>7} GB/s", flush=True)
    if arguments.write:
        print(f"written to {write_results('kernels', rows)}")


if __name__ == "__main__":
    main()
