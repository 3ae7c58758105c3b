"""What fused modules keep for the backward pass."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition
from densekit.models.densenet import DenseNet


def saved_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Return the bytes that the graph of ``model(x)`` holds, less the parameters and the input."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = model(x)
    for own in (x, *model.parameters(), *model.buffers()):
        storages.pop(own.untyped_storage().data_ptr(), None)
    del y
    return sum(storages.values())


def test_memory_kept_for_the_backward_pass_is_at_most_half(randomise, assert_ran, engine):
    """DenseNet-121's second block at 28x28: also at most what its features and bottlenecks take, plus statistics."""
    stock = DenseBlock(12, 128, 32, bn_size=4)
    fused = fuse(deepcopy(stock), engine)
    x = torch.randn(1, 128, 28, 28).requires_grad_()
    kept = saved_bytes(fused, x)
    assert_ran(fused, engine)
    features_and_bottlenecks = 4 * 28 * 28 * (128 + 12 * 32 + 12 * 128)
    assert features_and_bottlenecks <= kept <= 1.05 * features_and_bottlenecks
    assert kept <= 0.5 * saved_bytes(stock, x)


def test_of_volumes_no_more_is_kept_either(assert_ran, engine):
    """Features and bottlenecks of a block, and of a whole network a third of what stock keeps."""
    stock = DenseNet((6, 6), 16, num_init_features=32, num_classes=2, spatial_dims=3)
    fused = fuse(deepcopy(stock), engine)
    x = torch.randn(1, 32, 6, 9, 9).requires_grad_()
    assert saved_bytes(fused.features.denseblock1, x) <= 1.05 * 4 * 6 * 9 * 9 * (32 + 6 * 16 + 6 * 64)
    volumes = torch.randn(2, 3, 32, 32, 32)
    assert saved_bytes(fused, volumes) <= saved_bytes(stock, volumes) / 3
    assert_ran(fused, engine)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_transition_keeps_its_input_and_vectors_only(spatial_dims, training, engine):
    x = torch.randn(2, 64, *[8] * spatial_dims)
    x = x.contiguous(
        memory_format=torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    ).requires_grad_()
    transition = Transition(64, 32, spatial_dims=spatial_dims).train(training)
    assert saved_bytes(fuse(transition, engine), x) <= 2 * 64 * 4


def test_memory_kept_grows_linearly_with_the_layers(engine):
    """The features of one more layer, not those of all layers before it."""
    x = torch.randn(1, 16, 24, 24).requires_grad_()
    kept = [saved_bytes(fuse(DenseBlock(layers, 16, 16, bn_size=2), engine), x) for layers in (4, 8, 12, 16)]
    steps = [after - before for before, after in pairwise(kept)]
    assert max(steps) <= 1.05 * min(steps)


def test_without_gradients_nothing_is_kept(small_block, engine):
    fused = fuse(small_block, engine)
    x = torch.randn(3, 10, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        assert saved_bytes(fused, x) == 0
        assert not fused(x).requires_grad
    with torch.inference_mode():
        fused(x)
