"""Every kind of network, in every runtime, against the trained one in float64."""

from copy import deepcopy

import pytest
import torch

from densekit.engine.swap import fuse
from densekit.export.program import grow_concatenations, inference_network
from densekit.export.targets import Options, find_target
from densekit.runtimes.exported import open_exported
from densekit.runtimes.run_openvino import require_openvino

TINY = {"block_config": [2, 2], "growth_rate": 8, "num_init_features": 16}
NETWORKS = {
    "imagenet_stem_grey_odd_size": ("densenet121", {**TINY, "in_channels": 1, "size": (37, 45)}),
    "cifar_stem_plain": ("densenet40_k12_cifar", {"block_config": [2, 2]}),
    "cifar_stem_bottleneck_se": ("se_densenet_bc100_k12_cifar", {"block_config": [1, 2]}),
    "max_pool_prelu_groups": ("densenet121", {**TINY, "pooling": "max", "activation": "prelu", "groups": 2}),
    "growth_for_each_block": ("densenet12_wide_cifar", {"block_config": [1, 2], "growth_rate": [8, 16]}),
    "resnet_se": ("se_resnet18", {"layers": [1, 1], "widths": [8, 16]}),
    "resnet_bottleneck": ("resnet50", {"layers": [1, 1], "widths": [8, 16]}),
    "resnet_padded_shortcut": ("resnet20_cifar", {"layers": [1, 1], "widths": [8, 16]}),
    "vgg": ("vgg11_bn_cifar", {}),
    "simple_cnn": ("simple_cnn", {"image_size": [20, 24], "size": (20, 24)}),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def classifier(make, request):
    name, options = request.param
    return make(name, **options)


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_answers_as_the_trained_network_for_batches_of_any_length(classifier, to, tmp_path):
    path = find_target(to, int8=False, bake_preprocessing=False).write(classifier, tmp_path, Options())
    exported = open_exported(tmp_path, {"target": to, "file": path.name})
    reference = deepcopy(classifier.network).double()
    size = (classifier.preprocessing.channels, *classifier.preprocessing.size)
    for count in (1, 2, 5):
        pictures = torch.randn(count, *size)
        with torch.inference_mode():
            expected = reference(pictures.double()).float()
            torch.testing.assert_close(exported(pictures), expected, rtol=2e-5, atol=2e-5)


def test_batch_norms_behind_a_convolution_are_folded(make):
    classifier = make("densenet121", **TINY)
    folded = inference_network(classifier.network)
    left = {name for name, module in folded.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    layers = {f"features.denseblock{b}.denselayer{i}.norm1" for b in (1, 2) for i in (1, 2)}
    assert left == layers | {"features.transition1.norm", "features.norm5"}


class Concatenations(torch.nn.Module):
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
    stock = torch.fx.symbolic_trace(Concatenations())
    grown = grow_concatenations(deepcopy(stock))
    pieces = torch.randn(3, 2, 4, 4).unbind()
    torch.testing.assert_close(grown(*pieces), stock(*pieces), rtol=0, atol=0)
    concatenations = grown.graph.find_nodes(op="call_function", target=torch.cat)
    assert [len(node.args[0]) for node in concatenations] == [2, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_dense_layers_append_to_the_features_so_far(make, to, tmp_path):
    classifier = make("densenet121", **TINY | {"block_config": [4, 3]})
    path = find_target(to, int8=False, bake_preprocessing=False).write(classifier, tmp_path, Options())
    assert max(_concatenated(path)) == 2


def _concatenated(path) -> list[int]:
    """How many pieces each concatenation of a file has."""
    if path.suffix == ".onnx":
        nodes = pytest.importorskip("onnx").load(path).graph.node
        return [len(node.input) for node in nodes if node.op_type == "Concat"]
    nodes = require_openvino().Core().read_model(path).get_ops()
    return [node.get_input_size() for node in nodes if node.get_type_name() == "Concat"]


@pytest.mark.parametrize("wrap", [fuse, torch.compile], ids=["fused", "compiled"])
def test_wrapped_network_exports_as_the_stock_one_and_stays_as_it_is(make, wrap):
    stock = make("densenet121", **TINY).network
    wrapped = wrap(deepcopy(stock)).train()
    kinds = [type(module) for module in wrapped.modules()]
    pictures = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(inference_network(wrapped)(pictures), inference_network(stock)(pictures))
    assert [type(module) for module in wrapped.modules()] == kinds
    assert wrapped.training
    assert all(parameter.requires_grad for parameter in wrapped.parameters())
