"""DenseNet's options, inputs and errors; test_densenet_peers compares it with published sizes and peers."""

import pytest
import torch
from torch import Tensor, nn

from densekit.errors import SettingsError, ShapeError
from densekit.models.dense_block import ACTIVATIONS, NORM, DenseLayer, Transition
from densekit.models.densenet import DenseNet

CLOSE = {"atol": 1e-10, "rtol": 1e-10}  # float64


def tiny(**options) -> DenseNet:
    """Return a small network in float64, its norms with values of their own so that a forgotten one shows."""
    torch.manual_seed(0)
    options = {"block_config": (2, 3), "growth_rate": 4, "num_init_features": 8, "num_classes": 5} | options
    model = DenseNet(**options)
    for module in model.modules():
        if isinstance(module, tuple(NORM.values())):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return model.double().eval()


def pictures(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OPTIONS = {
    "defaults": {},
    "plain": {"bn_size": None},
    "cifar": {"stem": "cifar"},
    "groups": {"groups": 2},
    "se": {"se_reduction": 1},
    "max_pooling": {"pooling": "max"},
    "dropout": {"drop_rate": 0.2},
    "memory_efficient": {"memory_efficient": True},
    "rate_per_block": {"growth_rate": (4, 6)},
    "one_channel": {"in_channels": 1},
    "five_channels": {"in_channels": 5},
    "one_class": {"num_classes": 1},
    "series": {"spatial_dims": 1},
    "volume": {"spatial_dims": 3},
    **{name: {"activation": name} for name in ACTIVATIONS},
}
EACH_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def batch_for(options: dict, samples: int = 3) -> Tensor:
    size = (9, 14, 11)[: options.get("spatial_dims", 2)]  # neither square nor even
    return pictures(samples, options.get("in_channels", 3), *size)


@EACH_OPTION
def test_every_parameter_learns(options: dict):
    model = tiny(**options).train()
    logits = model(batch_for(options))
    assert logits.shape == (3, options.get("num_classes", 5))
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@EACH_OPTION
def test_a_sample_does_not_depend_on_the_others(options: dict):
    model, x = tiny(**options), batch_for(options)
    torch.testing.assert_close(model(x), torch.cat([model(sample[None]) for sample in x]), **CLOSE)


def test_options_reach_every_layer():
    model = tiny(drop_rate=0.2, groups=2, activation="tanh", pooling="max", memory_efficient=True)
    layers = [module for module in model.modules() if isinstance(module, DenseLayer)]
    assert len(layers) == 5
    assert all((x.drop_rate, x.memory_efficient, x.conv2.groups) == (0.2, True, 2) for x in layers)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Tanh) == 1 + 2 * 5 + 1 + 1  # stem, layers, transition, end
    assert kinds.count(nn.MaxPool2d) == 1 + 1  # stem, transition
    assert nn.ReLU not in kinds
    assert nn.AvgPool2d not in kinds


def test_dropout_is_seeded_and_only_for_training():
    model, x = tiny(drop_rate=0.5).train(), pictures(2, 3, 16, 16)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(x))
    torch.testing.assert_close(outputs[0], outputs[1], atol=0, rtol=0)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3
    twin = tiny()
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(x), twin(x), atol=0, rtol=0)


def test_growth_rate_and_compression_by_hand():
    model = tiny(block_config=(2, 1, 3), growth_rate=(4, 8, 16), num_init_features=5, compression=0.7)
    kept = [module.conv.out_channels for module in model.modules() if isinstance(module, Transition)]
    assert kept == [9, 11]  # .7 * (5 + 2 * 4) = 9.1, then .7 * (9 + 8) = 11.9: rounded down
    assert model.stage_channels == [13, 17, 59]
    assert model.classifier.in_features == 59


def test_stages_are_the_outputs_of_the_blocks():
    model, x = tiny(block_config=(2, 3, 1)), pictures(2, 3, 33, 50)
    seen = []
    for name in ("denseblock1", "denseblock2", "denseblock3"):
        getattr(model.features, name).register_forward_hook(lambda block, inputs, y: seen.append(y))
    stages = model.forward_stages(x)
    assert [tuple(y.shape) for y in stages] == [(2, 16, 9, 13), (2, 20, 4, 6), (2, 14, 2, 3)]
    assert [y.shape[1] for y in stages] == model.stage_channels
    model(x)
    torch.testing.assert_close(stages, seen[3:], **CLOSE)


def test_features_only_returns_the_stages():
    whole, stages = tiny(), tiny(features_only=True)
    missing, left_over = stages.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    assert {key.rpartition(".")[0] for key in left_over} == {"features.norm5", "classifier"}
    x = pictures(2, 3, 20, 24)
    torch.testing.assert_close(stages(x), whole.forward_stages(x), **CLOSE)


def test_forward_features_ends_in_batch_norm_and_activation():
    model, x = tiny(), pictures(2, 3, 20, 24)
    last = model.forward_stages(x)[-1]
    norm5 = model.features.norm5
    scale = norm5.weight / (norm5.running_var + norm5.eps).sqrt()
    normal = (last - norm5.running_mean[:, None, None]) * scale[:, None, None] + norm5.bias[:, None, None]
    features = model.forward_features(x)
    torch.testing.assert_close(features, normal.clamp(min=0), **CLOSE)
    logits = features.mean((2, 3)) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), logits, **CLOSE)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("dims", [1, 2], ids=["series_to_picture", "picture_to_volume"])
def test_one_more_dimension_along_which_nothing_changes(dims: int, stem: str, training: bool):
    """Kernels set in the middle of kernels of zeros, and the input repeated, must give the same logits."""
    low, high = (tiny(spatial_dims=d, stem=stem).train(training) for d in (dims, dims + 1))
    for key, wanted in high.state_dict().items():
        weight = low.state_dict()[key]
        if wanted.dim() > weight.dim():
            wanted.zero_().select(2, wanted.shape[2] // 2).copy_(weight)
        else:
            wanted.copy_(weight)
    x = pictures(3, 3, *(18, 13)[:dims])
    repeated = x.unsqueeze(2).repeat_interleave(8, 2)
    torch.testing.assert_close(high(repeated), low(x), **CLOSE)


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("stem", "blocks", "minimum"),
    [("imagenet", 1, 1), ("imagenet", 2, 5), ("imagenet", 4, 29), ("cifar", 1, 1), ("cifar", 3, 4)],
)
def test_minimum_size_is_enough_and_one_less_is_not(stem: str, blocks: int, minimum: int, spatial_dims: int):
    model = tiny(block_config=(1,) * blocks, growth_rate=2, stem=stem, spatial_dims=spatial_dims)
    assert model.minimum_size == minimum
    smallest = pictures(1, 3, *[minimum] * spatial_dims)
    assert model(smallest).isfinite().all()
    assert model.forward_features(smallest).shape[2:] == (1,) * spatial_dims
    smaller = smallest[..., 1:]
    advice = f"resize it to at least {' x '.join([str(minimum)] * spatial_dims)}$"
    for method in (model, model.forward_features, model.forward_stages):
        with pytest.raises(ShapeError, match=advice):
            method(smaller)
    if minimum > 1:
        model.minimum_size = 1
        with pytest.raises(RuntimeError, match=r"too small|smaller than kernel"):  # PyTorch: no pixel would be left
            model(smaller)


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        pytest.param(torch.zeros(2, 1, 16, 16), "give 3 channels, or build the network for 1", id="grey"),
        pytest.param(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "given uint8: convert it", id="integers"),
        pytest.param(torch.zeros(3, 16, 16), r"add the batch dimension with x\[None\]", id="no_batch"),
        pytest.param(torch.zeros(2, 3, 16, 16, 16), "give 4 dimensions, not 5", id="volume"),
    ],
)
def test_unfit_input(x: Tensor, advice: str):
    with pytest.raises(ShapeError, match=rf"^DenseNet takes .*{advice}"):
        tiny()(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation": "relu6"},
            "activation is 'relu6', must be one of relu, leaky_relu, prelu, sigmoid, tanh",
        ),
        ({"stem": "mnist"}, "stem is 'mnist', must be one of imagenet, cifar"),
        ({"pooling": "mean"}, "pooling is 'mean', must be one of avg, max"),
        ({"spatial_dims": 4}, "spatial_dims is 4, must be one of 1, 2, 3"),
        ({"block_config": ()}, "block_config is (), needs 1 layer or more in every block"),
        ({"block_config": (2, 0)}, "block_config is (2, 0), needs 1 layer or more in every block"),
        (
            {"growth_rate": (4, 4, 4)},
            "growth_rate is [4, 4, 4], must be one number, or one for each of the 2",
        ),
        (
            {"growth_rate": 0},
            "growth_rate is [0, 0], must be one number, or one for each of the 2 blocks, of 1",
        ),
        ({"compression": 0}, "compression is 0, must be above 0 and at most 1"),
        ({"compression": 1.5}, "compression is 1.5, must be above 0 and at most 1"),
        ({"drop_rate": -0.1}, "drop_rate is -0.1, must be at least 0 and below 1"),
        ({"drop_rate": 1}, "drop_rate is 1, must be at least 0 and below 1"),
        ({"bn_size": 0}, "bn_size is 0, must be 1 or more, or None for plain layers"),
        (
            {"groups": 3},
            "groups is 3, but a 3x3 convolution maps 16 channels to 4; 1, 2, 4 would divide both",
        ),
        (
            {"groups": 0},
            "groups is 0, but a 3x3 convolution maps 16 channels to 4; 1, 2, 4 would divide both",
        ),
        (
            {"groups": 4, "bn_size": None, "num_init_features": 6},
            "maps 6 channels to 4; 1, 2 would divide both",
        ),
        ({"se_reduction": 0}, "reduction is 0, must be at least 1"),
    ],
)
def test_settings_that_cannot_work(options: dict, message: str):
    with pytest.raises(SettingsError) as error:
        tiny(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("memory_efficient", [False, True], ids=["ordinary", "memory_efficient"])
def test_backward_hooks_work_everywhere(memory_efficient: bool):
    """Grad-CAM hooks the features or a norm; an activation in place behind it would raise (vision #4164)."""
    model = tiny(memory_efficient=memory_efficient).train(memory_efficient)
    seen: dict[nn.Module, Tensor] = {}
    for module in model.modules():
        module.register_full_backward_hook(lambda m, into, out: seen.update({m: out[0]}))
    features = model.forward_features(pictures(2, 3, 20, 24).requires_grad_())
    model.classifier(features.mean((2, 3)))[:, 1].sum().backward()
    assert set(seen) == set(model.modules()) - {model}
    pixels = features[0, 0].numel()
    wanted = (features > 0) * model.classifier.weight[1][:, None, None] / pixels  # of the mean of the ReLU
    torch.testing.assert_close(seen[model.features], wanted, **CLOSE)


@pytest.mark.parametrize("features_only", [False, True], ids=["logits", "features_only"])
def test_export_keeps_the_batch_free(features_only: bool):
    model = tiny(features_only=features_only, se_reduction=2)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (pictures(2, 3, 20, 24),), dynamic_shapes=({0: batch},)).module()
    for samples in (1, 5):
        x = pictures(samples, 3, 20, 24)
        torch.testing.assert_close(program(x), model(x), **CLOSE)
