"""Every Triton kernel is compiled for GPUs, which takes none: what the interpreter accepts, the compiler may not."""

import os
import subprocess
import sys

import pytest

# In a process of its own: what is compiled for a device that is not there stays in the kernels.
SCRIPT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from densekit.engine import ops_triton, triton_launchers
from densekit.engine.batch_norm import FoldedNorm, StoredNorm
from densekit.engine.ops import Bottleneck

class Device:
    capability = None

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

def compile_only(kernel, shape, *operands, **sizes):
    compiled = kernel.run(*operands, grid=(1,), warmup=True, **sizes, enable_fp_fusion=True)
    print(kernel.__name__, compiled.metadata.shared, len(compiled.asm["cubin"]))

def compile_products(P, c, m, dtype):
    x, weight, dz = (torch.zeros(size, dtype=dtype) for size in ((P, c), (m, c), (P, m)))
    norm = FoldedNorm(*torch.zeros(4, c))
    ops.bnrelu_conv1x1(x, norm, weight, with_moments=True)
    for wanted in (True, False):
        ops.conv1x1_backward(dz, weight, x, norm, source=x, out=x, needs_dweight=wanted)

def compile_layer(pictures, m, dtype):
    c, k = pictures.shape[-1], 32
    norm, norm2 = (StoredNorm(*(torch.ones(size) for _ in range(4)), 1e-5) for size in (c, m))
    layer = Bottleneck(norm, torch.zeros(m, c, 1, 1), norm2, torch.zeros(k, m, 3, 3))
    new, more = torch.zeros(*pictures.shape[:3], k, dtype=dtype), {"needs_dweight": True, "needs_dweight2": True}
    ops.infer_layer(layer, pictures, new, dtype)
    z, *_ = ops.layer(layer, pictures, new, dtype, trains=True, with_moments=True)
    for trains, terms in ((True, torch.zeros(2, c)), (False, None)):
        onto = {"source": pictures, "out": pictures, "terms": terms}
        ops.layer_backward(layer, new, pictures, z, trains=trains, **onto, **more)

def compile_all(N, H, W, c, m, dtype):
    pictures, norm = torch.zeros(N, H, W, c, dtype=dtype), FoldedNorm(*torch.zeros(4, c))
    x = pictures.view(-1, c)
    ops.batch_moments(x, x)
    ops.bnrelu(x, norm, out=x)
    ops.drelu_sums(x, x, norm, source=x, out=x)
    ops.bn_gradient(x, x, norm, torch.zeros(2, c), out=x)
    pooled = ops.bnrelu_avg_pool(pictures, norm, dtype)
    ops.bnrelu_avg_pool_backward(pooled, pictures, norm)
    compile_products(len(x), c, m, dtype)
    compile_layer(pictures, m, dtype)

triton_launchers._launch = compile_only
ops, device = ops_triton.TritonOps(), Device()
driver.set_active(device)
device.capability = 90
compile_all(2, 8, 16, 160, 128, torch.bfloat16)  # as in DenseNet-121
compile_all(1, 2, 2, 1, 1, torch.bfloat16)  # sizes of 1 are constants to the compiler
compile_products(256, 160, 192, torch.float32)  # as in DenseNet-161: the largest tiles
compile_layer(torch.zeros(1, 16, 16, 160), 192, torch.float32)
device.capability = 80
compile_products(256, 160, 128, torch.bfloat16)
"""
KERNELS = {
    "tile_moments", "join_moments", "bnrelu", "drelu_sums", "bn_gradient",
    "norm_gradient", "bnrelu_avg_pool", "bnrelu_avg_pool_backward", "bnrelu_conv1x1", "conv1x1_backward",
}  # fmt: skip
SHARED = 99 * 1024
"""Bytes of fast memory that a program may have on the smallest devices that the kernels are for (8.6, 8.9 and 12.0)."""


def test_kernels_are_compiled_and_fit(tmp_path):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    compiled = [line.split() for line in ran.stdout.splitlines()]
    assert {name for name, *_ in compiled} == KERNELS
    assert all(int(shared) <= SHARED and int(size) > 0 for _, shared, size in compiled), compiled
