"""Concatenations of an exported DenseNet: fewer copies, the same network."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.shape_prop import ShapeProp

from densekit.export.concatenations import convolve_in_groups, grow_concatenations
from densekit.export.program import inference_network
from densekit.export.targets import Options, find_target
from densekit.runtimes.run_openvino import require_openvino

TINY = {"block_config": [4, 3], "growth_rate": 8, "num_init_features": 16}


class Concatenations(nn.Module):
    """Some that continue an earlier one, and some that only look like it."""

    def forward(self, a, b, c):
        first = torch.cat([a, b], 1)
        return (
            first,
            torch.cat((a, b, c), 1),  # continues the first
            torch.cat([a, b, c, c, a], 1),  # continues the second
            torch.cat([a, b, c], dim=2),  # other dimension
            torch.cat([a, b, b], dim=2),
            torch.cat([b, a, c], 1),  # other order
            torch.cat([c, a, b], 1),  # at the end
            torch.cat([a, c, b], 1),  # one piece only
        )


def test_a_concatenation_takes_the_result_of_the_one_that_it_continues():
    stock = symbolic_trace(Concatenations())
    grown = grow_concatenations(deepcopy(stock))
    pieces = torch.randn(3, 2, 4, 4).unbind()
    torch.testing.assert_close(grown(*pieces), stock(*pieces), rtol=0, atol=0)
    concatenations = grown.graph.find_nodes(op="call_function", target=torch.cat)
    assert [len(node.args[0]) for node in concatenations] == [2, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_dense_layers_append_to_the_features_so_far(make, to, tmp_path):
    classifier = make("densenet121", **TINY)
    path = find_target(to, int8=False, bake_preprocessing=False).write(classifier, tmp_path, Options())
    assert max(_concatenated(path)) == 2


def _concatenated(path) -> list[int]:
    """How many pieces each concatenation of a file has."""
    if path.suffix == ".onnx":
        nodes = pytest.importorskip("onnx").load(path).graph.node
        return [len(node.input) for node in nodes if node.op_type == "Concat"]
    nodes = require_openvino().Core().read_model(path).get_ops()
    return [node.get_input_size() for node in nodes if node.get_type_name() == "Concat"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("densenet121", TINY),
        ("densenet121", TINY | {"pooling": "max", "activation": "prelu"}),
        ("densenet40_k12_cifar", {}),  # the 3x3 convolution reads all features
        ("se_densenet_bc100_k12_cifar", {}),
    ],
)
def test_sums_over_groups_are_the_convolution_of_all_features(make, name, options):
    stock = inference_network(make(name, **options | {"block_config": [12, 8]}).network).double()
    pictures = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    grouped = grow_concatenations(convolve_in_groups(deepcopy(stock), pictures[:1], width=32))
    torch.testing.assert_close(grouped(pictures), stock(pictures), rtol=1e-12, atol=1e-12)
    assert _copied(grouped, pictures) < 0.6 * _copied(grow_concatenations(stock), pictures)


def _copied(network, pictures) -> int:
    """How many values the concatenations write."""
    ShapeProp(network).propagate(pictures)
    nodes = network.graph.find_nodes(op="call_function", target=torch.cat)
    return sum(node.meta["tensor_meta"].shape.numel() for node in nodes)


class Readers(nn.Module):
    """Norm, activation and convolution behind a concatenation of four channels and four."""

    def __init__(self, norm=None, activation=None, convolution=None, dim=1):
        super().__init__()
        self.norm = norm or nn.BatchNorm2d(8)
        self.activation = activation or nn.ReLU()
        self.convolution = convolution or nn.Conv2d(8, 6, 1)
        self.dim = dim

    def forward(self, x):
        both = torch.cat([x[:, :4], x[:, 4:]], dim=self.dim)
        return self.convolution(self.activation(self.norm(both)))


class ReadTwice(Readers):
    """The concatenation itself is an output too."""

    def forward(self, x):
        both = torch.cat([x[:, :4], x[:, 4:]], 1)
        return both, self.convolution(self.activation(self.norm(both)))


@pytest.mark.parametrize(
    ("network", "divided"),
    [
        (Readers(), True),
        (Readers(convolution=nn.Conv2d(8, 6, 3, stride=2, padding=2, padding_mode="reflect", bias=False)), True),
        (Readers(norm=nn.BatchNorm2d(8, affine=False, track_running_stats=False)), True),
        (Readers(activation=nn.PReLU()), True),
        (Readers(activation=nn.PReLU(8)), False),  # a slope for every channel
        (Readers(activation=nn.Softmax2d()), False),  # mixes the channels
        (Readers(convolution=nn.Conv2d(8, 6, 1, groups=2)), False),
        (Readers(nn.BatchNorm2d(4), convolution=nn.Conv2d(4, 6, 1), dim=2), False),
        (ReadTwice(), False),
    ],
)
def test_only_what_is_the_same_in_groups_is_divided(network, divided):
    for values in network.norm.state_dict().values():
        if values.ndim > 0:
            values.uniform_(0.5, 2)
    stock = symbolic_trace(network.double().eval())
    features = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    grouped = convolve_in_groups(deepcopy(stock), features, width=4)
    torch.testing.assert_close(grouped(features), stock(features), rtol=1e-12, atol=1e-12)
    assert bool(grouped.graph.find_nodes(op="call_function", target=torch.add)) == divided


def test_an_onnx_file_sums_convolutions(make, tmp_path):
    onnx = pytest.importorskip("onnx")
    classifier = make("densenet121", **TINY | {"growth_rate": 64})
    path = find_target("onnx", int8=False, bake_preprocessing=False).write(classifier, tmp_path, Options())
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Add") == 3  # full with two layers: in two layers of the first block, in one of the second
