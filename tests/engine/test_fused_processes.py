"""Two processes, each with half of the batch, take the step of one process with all of it."""

import subprocess
import sys

import torch
from safetensors.torch import load_file

# Batch norms stand still: those that train see their own half only, as in the stock network.
SCRIPT = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.models.densenet import DenseNet

rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
model = fuse(DenseNet((2, 2), 6, num_init_features=10, num_classes=4, stem="cifar").double().eval())
x, labels = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 4
if processes > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    x, labels = x.chunk(processes)[rank], labels.chunk(processes)[rank]
forward = DistributedDataParallel(model) if processes > 1 else model
nn.functional.cross_entropy(forward(x), labels).backward()
assert not any(module.ran.startswith("stock") for module in model.modules() if isinstance(module, Fused))
save_file({name: p.grad.contiguous() for name, p in model.named_parameters()}, f"{folder}/{processes}-{rank}")
if processes > 1:
    dist.destroy_process_group()
"""


def test_two_processes_give_the_gradients_of_one(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, rank, processes, str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank, processes in (("0", "1"), ("0", "2"), ("1", "2"))
    ]
    for process in started:
        assert process.wait(150) == 0, process.communicate()[1]
        process.stderr.close()
    whole = load_file(tmp_path / "1-0")
    for half in ("2-0", "2-1"):
        torch.testing.assert_close(load_file(tmp_path / half), whole, rtol=1e-10, atol=1e-12)
