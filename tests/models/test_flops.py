import copy

import pytest
import torch
from torch import nn

from densekit.models.catalogue import create_model
from densekit.models.flops import count_flops


def test_answer_by_formula():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 6 * 5, 4))
    assert count_flops(network, (3, 6, 5)) == 2 * (9 * 3 * 8 * 30 + 240 * 4)


def test_training_is_three_times_the_work_but_for_the_gradient_of_the_picture():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(240, 4, bias=False))
    first, second = 2 * 9 * 3 * 8 * 30, 2 * 240 * 4
    assert count_flops(network, (3, 6, 5), training=True) == 2 * first + 3 * second


@pytest.mark.parametrize("training", [True, False])
def test_network_is_left_as_it_was(training):
    network = create_model("densenet12_wide_cifar", num_classes=3).train(training)
    before = copy.deepcopy(network.state_dict())
    assert count_flops(network, (3, 32, 32), training=True) > 2 * count_flops(network, (3, 32, 32))
    assert network.training is training
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
