"""Memory of a step: against closed forms, autograd's own list of what it saves, and the operating system."""

import sys

import pytest
import torch
from torch.nn import functional as F

from densekit.errors import SettingsError
from densekit.profiling.memory import LiveBytes, Prediction, predict_memory
from densekit.profiling.process import measure_memory
from densekit.profiling.step import Steps
from densekit.profiling.subject import find_subject

CPU = torch.device("cpu")
KILO = 1024 * 4  # bytes of 1024 float32


def steps_of(name: str, *, fused: bool = False) -> Steps:
    return Steps(find_subject(name, fused=fused), CPU, "fp32")


def test_live_bytes_of_a_few_operations():
    old = torch.ones(1024)
    with LiveBytes() as live:
        one = old * 2
        two = one + 1
        view = one[:512].add_(1).view(2, 256)  # views and in-place operations make nothing
        old.mul_(3)
        assert (live.live, live.highest) == (2 * KILO, 2 * KILO)
        del one
        assert live.live == 2 * KILO  # the view holds on to it
        del view
        assert (live.live, live.highest) == (KILO, 2 * KILO)
        del two
    assert live.live == 0


def saved_bytes(network: torch.nn.Module, x: torch.Tensor) -> int:
    """What autograd saves for the backward pass of ``network(x)``, less the parameters and buffers."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(x)
    for own in (*network.parameters(), *network.buffers()):
        storages.pop(own.untyped_storage().data_ptr(), None)
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("densenet40_k12_cifar", False),
        ("densenet40_k12_cifar", True),
        ("torchvision:densenet121", True),
        ("torchvision:resnet18", False),
    ],
)
def test_what_a_picture_leaves_is_what_autograd_saves_for_it(name, fused):
    steps = steps_of(name, fused=fused)
    kept = predict_memory(steps, (32, 32)).kept
    two, five = (saved_bytes(steps.network.train(), steps.pictures(batch, (32, 32))) for batch in (2, 5))
    assert sum(kept.values()) == pytest.approx((five - two) / 3, rel=0.02)


@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:resnet18", "vgg11_bn_cifar"])
def test_a_larger_batch_is_predicted_as_it_is_counted(name):
    steps = steps_of(name)
    predicted = predict_memory(steps, (48, 48)).peak(9)
    with LiveBytes() as live:
        steps.train(steps.pictures(9, (48, 48)))
    # not to the byte: within one piece of the step, another moment may be the highest at another batch
    assert predicted == pytest.approx(steps.fixed_bytes + live.highest, rel=0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the resident set's peak of one program")
@pytest.mark.parametrize(
    ("name", "fused", "size", "batch"),
    [
        ("torchvision:densenet121", False, 64, 24),
        ("torchvision:densenet121", True, 96, 24),
        ("torchvision:densenet201", False, 64, 16),
        ("torchvision:resnet50", False, 96, 16),
    ],
)
def test_prediction_is_within_15_percent_of_what_the_system_measures(name, fused, size, batch):
    subject = find_subject(name, fused=fused)
    predicted = predict_memory(Steps(subject, CPU, "fp32"), (size, size)).peak(batch)
    measured = measure_memory(subject, batch, (size, size), CPU, "fp32")
    assert measured is not None
    assert predicted == pytest.approx(measured.peak, rel=0.15)


def test_fixed_bytes_are_parameters_buffers_and_momentum():
    parameters = 11_689_512  # of ResNet-18
    statistics = 2 * (64 + 4 * 64 + 5 * (128 + 256 + 512))
    assert steps_of("resnet18").fixed_bytes == 4 * (2 * parameters + statistics) + 8 * 20  # and 20 counters


def test_a_step_leaves_the_weights():
    steps = steps_of("simple_cnn")
    before = [parameter.clone() for parameter in steps.network.parameters()]
    steps.train(steps.pictures(4, (32, 32)))
    torch.testing.assert_close(list(steps.network.parameters()), before, rtol=0, atol=0)


def test_bf16_keeps_half_of_it():
    whole, half = (
        sum(predict_memory(Steps(find_subject("vgg11_bn_cifar"), CPU, precision), (32, 32)).kept.values())
        for precision in ("fp32", "bf16")
    )
    assert 0.4 * whole < half < 0.7 * whole


def test_largest_batch_is_the_last_that_fits():
    lines = ((1000, 1200), (400, 2400))  # at 2 and at 4 pictures: 100 and 1000 bytes a picture
    prediction = Prediction((8, 8), 500, lines, {})
    assert [prediction.peak(batch) for batch in (2, 3, 4, 10)] == [1500, 1900, 2900, 8900]
    assert [prediction.largest_batch(memory) for memory in (8899, 8900, 9899, 9900)] == [9, 10, 10, 11]
    assert prediction.largest_batch(1000) == 0


class TestRefusals:
    def test_of_another_library_become_one_line(self):
        with pytest.raises(SettingsError, match="torchvision:densenet121 cannot be trained on 2 pictures of 16x16: "):
            predict_memory(steps_of("torchvision:densenet121"), (16, 16))

    def test_of_the_measuring_process(self):
        with pytest.raises(SettingsError, match="torchvision:densenet121 with 2 pictures of 16x16: "):
            measure_memory(find_subject("torchvision:densenet121"), 2, (16, 16), CPU, "fp32")


def test_the_backward_pass_of_a_fused_network_is_still_right_while_followed():
    """Following must not disturb what it follows: the gradients equal those of an unobserved step."""
    steps, gradients = steps_of("densenet40_k12_cifar", fused=True), []
    x, labels = steps.pictures(2, (16, 16)), torch.tensor([0, 1])
    for mode in (torch.enable_grad(), LiveBytes()):
        with mode:
            F.cross_entropy(steps.network.train()(x), labels).backward()
        gradients.append([parameter.grad.clone() for parameter in steps.network.parameters()])
        steps.optimizer.zero_grad()
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
