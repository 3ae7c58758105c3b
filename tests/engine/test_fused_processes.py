"""Two processes, each with half of the batch, take the step of one process with all of it."""

import copy

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit.engine.choose_ops import choose_ops
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.models.densenet import DenseNet

AUTO = choose_ops("auto", "cpu").name


def network() -> nn.Module:
    torch.manual_seed(0)
    model = DenseNet((2, 2), 6, num_init_features=10, num_classes=4, stem="cifar").double()
    return fuse(model.eval())  # batch norms that train see their own half only, as in the stock network


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 4


def half_a_step(rank: int, address: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    x, labels = (part.chunk(2)[rank] for part in batch())
    nn.functional.cross_entropy(model(x), labels).backward()
    ran = {module.ran for module in model.modules() if isinstance(module, Fused)}
    results[rank] = ran, {name: p.grad.numpy() for name, p in model.module.named_parameters()}
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        address = f"file://{tmp_path / 'meeting'}"
        torch.multiprocessing.spawn(half_a_step, (address, results), nprocs=2)
        results = copy.deepcopy(dict(results))
    whole = network()
    x, labels = batch()
    nn.functional.cross_entropy(whole(x), labels).backward()
    for ran, gradients in results.values():
        assert ran == {AUTO}
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(torch.from_numpy(gradients[name]), parameter.grad, rtol=1e-10, atol=1e-12)
