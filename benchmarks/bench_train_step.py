"""A training step, or an inference, of the same DenseNet fused and as its peers compute it.

    python benchmarks/bench_train_step.py [--networks densenet121 ...] [--batch 16] [--precisions fp32 bf16]
        [--infer] [--no-compiled] [--no-memory] [--runs 7] [--device cpu] [--write NAME]

All contenders take turns (A B C A B C ...), so that whatever else the machine does hits them alike. A training step is
forward, backward and SGD with momentum. The first step is told apart, with the building of the network: they hold what
is compiled by g++, torch.compile and Triton.
Memory is what is kept for the backward pass (every distinct storage once), and the peak: of the allocator on a GPU; on
a CPU of the resident set of a process of its own, less what it holds with the network and the optimizer built.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common import interleave, setting, summarise, write_results
from contenders import NETWORKS, build, contenders_of, of_volumes

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_step(model: nn.Module, x: Tensor, precision: str, infer: bool) -> Callable[[], None]:
    """Return a function that takes one training step, or one inference, to its end."""
    labels = torch.arange(len(x), device=x.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    autocast = {"dtype": DTYPES[precision] or torch.bfloat16, "enabled": precision != "fp32"}
    model.train(not infer)

    def step() -> None:
        with torch.autocast(x.device.type, **autocast):
            if infer:
                with torch.inference_mode():
                    model(x)
            else:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), labels)
        if not infer:
            loss.backward()
            optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    return step


def pictures(batch: int, network: str, device: str) -> Tensor:
    side = NETWORKS[network]
    if of_volumes(network):
        return torch.randn(batch, 1, side, side, side, device=device).to(memory_format=torch.channels_last_3d)
    return torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)


def saved_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """Bytes kept for the backward pass, every storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []  # alive, so that no address is taken twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def peak_bytes(arguments: argparse.Namespace, contender: str, network: str, precision: str) -> int:
    """Peak memory of a step, on a CPU of three, above what network and optimizer take."""
    if arguments.device != "cpu":
        x = pictures(arguments.batch, network, arguments.device)
        model = build(contender, network, arguments.device)
        step = make_step(model, x, precision, arguments.infer)
        step()
        model.zero_grad()  # gradients are part of a step
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        step()
        return torch.cuda.max_memory_allocated(x.device) - before
    command = [sys.executable, __file__, "--only-memory", contender, "--networks", network, "--precisions", precision]
    command += ["--batch", str(arguments.batch), *(["--infer"] if arguments.infer else [])]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(arguments: argparse.Namespace) -> None:
    """Print the peak of the resident set of this process above what it has before its first step, in bytes."""
    network, precision = arguments.networks[0], arguments.precisions[0]
    x = pictures(arguments.batch, network, "cpu")
    step = make_step(build(arguments.only_memory, network, "cpu"), x, precision, arguments.infer)
    before = _resident("VmRSS")
    for _ in range(3):
        step()
    print(_resident("VmHWM") - before)


def _resident(entry: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most so far (`getrusage` would start from the parent's peak)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def measure(arguments: argparse.Namespace, network: str, precision: str) -> list[dict]:
    """Measure all contenders at one network and precision; return their rows."""
    x = pictures(arguments.batch, network, arguments.device)
    names = contenders_of(network, arguments.device, training=not arguments.infer, compiled=arguments.compiled)
    steps, rows = {}, {}
    for name in names:
        start = time.perf_counter()  # `densekit.fuse` compiles when it is called, others in their first step
        model = build(name, network, arguments.device)
        steps[name] = make_step(model, x, precision, arguments.infer)
        steps[name]()
        row = {"network": network, "precision": precision, "batch": arguments.batch, "side": x.shape[-1]}
        rows[name] = {**row, "what": "inference" if arguments.infer else "training step", "contender": name}
        rows[name]["first_s"] = round(time.perf_counter() - start, 2)
        print(f"{network} {precision} {name}: first {rows[name]['first_s']} s", flush=True)
        saved = not arguments.infer and "compiled" not in name  # compiled code keeps tensors out of the hooks' sight
        rows[name]["saved_MB"] = round(saved_bytes(model, steps[name]) / 1e6, 1) if saved else ""
    samples = interleave(steps, arguments.runs, settle=arguments.infer)
    best = min(summarise(samples[name], "s")["median_s"] for name in names if not name.startswith("densekit"))
    for name, row in rows.items():
        alone = arguments.memory and "compiled" not in name  # compiling takes more memory than any step
        row["peak_MB"] = round(peak_bytes(arguments, name, network, precision) / 1e6, 1) if alone else ""
        row |= summarise(samples[name], "s")
        row["times_the_best_peer"] = round(best / row["median_s"], 2)
        time_and_spread = f"{row['median_s']:.3f} s ({row['q1_s']:.3f} to {row['q3_s']:.3f})"
        memory = f"saved {row['saved_MB']} MB, peak {row['peak_MB']} MB"
        print(f"  {name:<30} {time_and_spread}, {row['times_the_best_peer']:.2f} times the best peer, {memory}")
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training steps and inference of DenseNets, fused and not.")
    parser.add_argument("--networks", nargs="+", default=["densenet121"], choices=NETWORKS)
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--infer", action="store_true", help="inference instead of training")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="leave torch.compile out")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the peaks of memory out")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", metavar="NAME", help="write results/NAME.csv")
    parser.add_argument("--only-memory", metavar="CONTENDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_memory:
        print_peak(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # first steps compile
            os.environ[cache] = folder
        rows = [
            row
            for network in arguments.networks
            for precision in arguments.precisions
            for row in measure(arguments, network, precision)
        ]
    where = setting("torch", "torchvision", "timm", "monai")
    if arguments.device != "cpu":
        where["machine"] = torch.cuda.get_device_name(arguments.device)
    if arguments.write:
        print(f"written to {write_results(arguments.write, [{**where, **row} for row in rows])}")


if __name__ == "__main__":
    main()
