"""Every kind of network, in every runtime, against the trained one in float64."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch

from densekit.engine.swap import fuse
from densekit.export.program import inference_network
from densekit.export.targets import Options, find_target
from densekit.runtimes.exported import open_exported

TINY = {"block_config": [2, 2], "growth_rate": 8, "num_init_features": 16}
NETWORKS = {
    "imagenet_stem_grey_odd_size": ("densenet121", {**TINY, "in_channels": 1, "size": (37, 45)}),
    "cifar_stem_plain": ("densenet40_k12_cifar", {"block_config": [2, 2]}),
    "cifar_stem_bottleneck_se": ("se_densenet_bc100_k12_cifar", {"block_config": [1, 2]}),
    "max_pool_prelu_groups": ("densenet121", {**TINY, "pooling": "max", "activation": "prelu", "groups": 2}),
    "more_features_than_one_group": ("densenet121", {"block_config": [6, 3], "growth_rate": 32, "bn_size": 1}),
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


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_threads_may_ask_at_the_same_time(make, to, tmp_path):
    path = find_target(to, int8=False, bake_preprocessing=False).write(make("densenet121", **TINY), tmp_path, Options())
    exported = open_exported(tmp_path, {"target": to, "file": path.name})
    pictures = torch.randn(64, 1, 3, 32, 32)
    alone = [exported(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(exported, pictures))
    torch.testing.assert_close(together, alone)
