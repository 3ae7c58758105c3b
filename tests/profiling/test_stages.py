"""Stages: counts against published ones and closed forms, times against the whole."""

import time

import pytest
import torch
import torchvision
from torch import nn

from densekit.engine.choose_ops import choose_ops
from densekit.engine.swap import fuse
from densekit.models.catalogue import create_model
from densekit.profiling.profile import count_by_stage
from densekit.profiling.stages import HEAD, UPDATE, marked, parts, share_out
from densekit.profiling.step import Steps
from densekit.profiling.subject import find_subject
from densekit.profiling.timing import time_training

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_counts_sum_to_the_published_ones(name):
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    parameters, macs = count_by_stage(find_subject(f"torchvision:{name}"), (224, 224))
    assert sum(parameters.values()) == published["num_params"]
    assert sum(macs.values()) / 1e9 == pytest.approx(published["_ops"], abs=1e-3)


def test_resnet18_by_hand():
    parameters, macs = count_by_stage(find_subject("resnet18"), (224, 224))
    assert list(macs) == ["112x112", "56x56", "28x28", "14x14", "7x7", HEAD]
    assert macs["112x112"] == 3 * 64 * 7 * 7 * 112 * 112
    assert macs["56x56"] == 4 * 64 * 64 * 9 * 56 * 56
    assert macs["28x28"] == (64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128) * 28 * 28
    assert macs[HEAD] == 512 * 1000
    assert parameters["56x56"] == 4 * 64 * 64 * 9 + 4 * 2 * 64
    assert parameters[HEAD] == 512 * 1000 + 1000


def test_a_fused_network_has_the_counts_of_its_stock_one():
    stock, fused = (find_subject("densenet40_k12_cifar", fused=fused) for fused in (False, True))
    assert count_by_stage(stock, (32, 32)) == count_by_stage(fused, (32, 32))


def test_parts_are_looked_for_in_plain_sequentials_only():
    network = create_model("densenet121")
    names = {part: name for name, part in network.named_modules()}
    assert [names[part] for part in parts(network)] == [
        *(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1")),
        *(f"features.{name}" for name in ("denseblock2", "transition2", "denseblock3", "transition3")),
        *("features.denseblock4", "features.norm5", "relu5", "classifier"),
    ]


def test_a_fused_stem_stays_fused_while_it_is_marked():
    network, seen = fuse(create_model("densenet121")), []
    with marked(network, lambda stage, direction, part: seen.append(stage)), torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
    assert network.features.ran == choose_ops("auto", "cpu").name
    assert seen[:3] == ["16x16", "8x8", "4x4"]  # convolution; dense block; transition


def test_marks_come_in_the_order_of_the_work():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    seen = []
    with marked(network, lambda stage, direction, part: seen.append((stage, direction))):
        network(torch.randn(3, 1, 6, 6)).sum().backward()
    stages = ["4x4", "4x4", "2x2", HEAD, HEAD]
    assert seen == [(stage, "forward") for stage in stages] + [(stage, "backward") for stage in reversed(stages)]
    network(torch.randn(3, 1, 6, 6)).sum().backward()
    assert len(seen) == 10  # nothing is left on the network


def test_shares():
    marks = [(UPDATE, None, 0), ("8x8", "forward", 1), (HEAD, "forward", 3), (HEAD, "backward", 7)]
    marks += [("8x8", "backward", 15), (UPDATE, None, 31), (UPDATE, None, 63)]
    assert share_out(marks) == {"8x8": 1 + 16, HEAD: 2 + 8, UPDATE: 4 + 32}


def test_every_stage_gets_its_time():
    """Sleep is put into a forward pass, a backward pass and an update: times are at least as long."""
    steps = Steps(find_subject("resnet14_cifar"), CPU, "fp32")
    layers = dict(steps.network.named_modules())
    layers["layer1.0"].register_forward_pre_hook(lambda *_: time.sleep(0.1))
    layers["layer2.0.bn1"].register_full_backward_hook(lambda *_: time.sleep(0.2))
    steps.optimizer.register_step_post_hook(lambda *_: time.sleep(0.3))
    seconds = time_training(steps, steps.pictures(2, (32, 32)))
    assert list(seconds) == ["32x32", "16x16", "8x8", HEAD, UPDATE]
    assert seconds["32x32"] >= 0.1
    assert seconds["16x16"] >= 0.2
    assert seconds[UPDATE] >= 0.3
