"""Memory that runs out in a compiled step is an error that training recognises, and nothing worse."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch

from densekit.engine.exported_steps import StepMemoryError
from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock

SCRIPT = """
import resource
from copy import deepcopy

import torch
from accelerate.utils.memory import should_reduce_batch_size

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock


def limit_to(more):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more if more else resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def step(block, x):
    return torch.autograd.grad(block(x).square().sum(), list(block.parameters()))


torch.set_num_threads({threads})
step(fuse(DenseBlock(1, 8, 4, bn_size={bn_size})), torch.randn(2, 8, 6, 6))  # threads take memory of their own
stock = DenseBlock(2, 256, 48, bn_size={bn_size})
fused, x = fuse(deepcopy(stock), "cpu"), torch.randn(2, 256, 6, 6)
before, errors, seen, more = deepcopy(fused.state_dict()), set(), None, 0
while seen is None:
    more += 1 << 17
    limit_to(more)
    try:
        seen = step(fused, x)
    except (RuntimeError, MemoryError) as error:
        limit_to(None)
        assert should_reduce_batch_size(error) or type(error) is MemoryError, error  # the latter is Python's own
        errors.add(type(error).__name__)
        counted = {{int(value) for name, value in fused.state_dict().items() if name.endswith("tracked")}}
        assert counted in ({{0}}, {{1}}), counted  # either every norm has counted the batch or none
        if counted == {{0}}:
            torch.testing.assert_close(fused.state_dict(), before, rtol=0, atol=0)
        fused.load_state_dict(before)
    limit_to(None)
torch.testing.assert_close(seen, step(stock, x), rtol=1e-3, atol=1e-3)
torch.testing.assert_close(fused.state_dict(), stock.state_dict(), rtol=1e-4, atol=1e-4)
print(*errors)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not kept")
@pytest.mark.parametrize(("bn_size", "threads"), [(4, 1), (4, 2), (None, 2)])
def test_memory_that_runs_out_in_a_step(bn_size, threads):
    """A process of its own, with a little more room from step to step, until one succeeds."""
    script = SCRIPT.format(bn_size=bn_size, threads=threads)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "StepMemoryError" in ran.stdout.split()
    assert issubclass(StepMemoryError, MemoryError)


def test_memory_that_runs_out_for_running_statistics(randomise, monkeypatch):
    """Norms of two momenta, and one in two layers: they are updated in several rounds."""
    block = fuse(randomise(DenseBlock(3, 10, 5, bn_size=2)))
    block.denselayer1.norm1.momentum = None
    block.denselayer3.norm2 = block.denselayer2.norm2
    before, lerp = deepcopy(block.state_dict()), torch._foreach_lerp
    for rounds in range(3):
        left = [lerp] * rounds
        monkeypatch.setattr("torch._foreach_lerp", lambda *given, left=left: left.pop()(*given))
        with pytest.raises(IndexError):  # a round for which there is nothing left
            block(torch.randn(2, 10, 6, 6))
        torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)
