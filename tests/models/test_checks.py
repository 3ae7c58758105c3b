"""Every network takes what it says it takes, and says what would fit when it is given something else."""

import pytest
import torch
from torch import nn

from densekit.errors import ShapeError
from densekit.models.checks import check_input
from densekit.models.dense_mlp import DenseMLP
from densekit.models.resnet import ResNet
from densekit.models.simple_cnn import SimpleCNN
from densekit.models.vgg import VGG

NETWORKS = {
    "resnet": lambda: ResNet(layers=(1, 1), widths=(8, 16), stem="cifar", se_reduction=4, num_classes=5),
    "resnet_option_a": lambda: ResNet(layers=(1, 1), widths=(8, 16), shortcut="A", num_classes=5),
    "vgg": lambda: VGG(11, num_classes=5),
    "simple_cnn": lambda: SimpleCNN(num_classes=5),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())


@pytest.mark.parametrize(
    ("x", "dims", "message"),
    [
        pytest.param(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2, "given uint8: convert", id="integer"),
        pytest.param(torch.rand(3, 8, 8), 2, r"\(3, 8, 8\): add the batch dimension", id="no_batch"),
        pytest.param(torch.rand(2, 2, 3, 8, 8), 2, "give 4 dimensions, not 5", id="too_many_dimensions"),
        pytest.param(torch.rand(2, 8, 8, 3), 2, "give 3 channels, or build the network for 8", id="channels_last"),
        pytest.param(torch.rand(2, 3, 8, 3), 2, "at least 4 x 4", id="one_side_too_small"),
        pytest.param(torch.rand(2, 3, 4, 4, 0), 3, "at least 4 x 4 x 4", id="empty_volume"),
        pytest.param(torch.rand(2, 3, 3), 1, r"takes \(N, 3, L\), .* at least 4$", id="short_signal"),
        pytest.param(torch.rand(2, 4), 0, r"takes \(N, 3\), given \(2, 4\)", id="table"),
    ],
)
def test_misfits_are_named(x: torch.Tensor, dims: int, message: str):
    with pytest.raises(ShapeError, match=message):
        check_input(x, network="Net", in_channels=3, dims=dims, minimum_size=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_and_the_smallest_size_pass(dtype: torch.dtype):
    check_input(torch.zeros(0, 3, 4, 4, dtype=dtype), network="Net", in_channels=3, dims=2, minimum_size=4)


@each_network
def test_smallest_size_fits_and_one_less_does_not(build):
    network: nn.Module = build().eval()
    size: int = network.minimum_size
    assert network(torch.rand(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(ShapeError, match="resize"):
        network(torch.rand(2, 3, size, size - 1))
    with pytest.raises(ShapeError, match="give 3 channels"):
        network(torch.rand(2, 1, size, size))


@each_network
def test_logits_come_from_the_feature_map(build):
    network = build().double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    features = network.forward_features(x)
    assert features.dim() == 4
    pooled = features.flatten(1) if isinstance(network, SimpleCNN) else features.mean((2, 3))
    head = network.fc if isinstance(network, ResNet) else network.classifier
    torch.testing.assert_close(network(x), head(pooled), atol=1e-12, rtol=1e-12)
    assert (network.num_classes, network.in_channels) == (5, 3)


@each_network
def test_exported_programs_agree_for_other_sizes(build):
    """The check neither breaks export and tracing nor freezes the sizes seen then."""
    network = build().eval()
    x, other = torch.rand(2, 3, 32, 32), torch.rand(3, 3, 32, 32)
    sizes = {0: torch.export.Dim("n")}
    if isinstance(network, ResNet):
        other = torch.rand(3, 3, 40, 24)
        sizes |= {2: torch.export.Dim("h", min=16), 3: torch.export.Dim("w", min=16)}
    exported = torch.export.export(network, (x,), dynamic_shapes=(sizes,)).module()
    for program in (exported, torch.fx.symbolic_trace(network)):
        torch.testing.assert_close(program(other), network(other), atol=1e-5, rtol=1e-5)


def test_compiled_networks_still_check():
    network = NETWORKS["resnet"]().eval()
    compiled = torch.compile(network, backend="eager", dynamic=True)
    x = torch.rand(2, 3, 9, 8)
    torch.testing.assert_close(compiled(x), network(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ShapeError, match="give 3 channels, or build the network for 4"):
        compiled(torch.rand(2, 4, 9, 8))
    torch.compiler.reset()  # else torch remembers for the tests to come that this code has raised


def test_mlp_takes_tables_only():
    network = DenseMLP(7).eval()
    assert network(torch.rand(2, 7)).shape == (2, 1)
    with pytest.raises(ShapeError, match="give 2 dimensions, not 4"):
        network(torch.rand(2, 7, 1, 1))
