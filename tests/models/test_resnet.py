"""ResNets against torchvision, timm and the paper's published sizes."""

import pytest
import torch
import torchvision
from torch import nn

from densekit.errors import SettingsError
from densekit.models.catalogue import count_parameters
from densekit.models.resnet import CONFIGURATIONS, BasicBlock, Bottleneck, PadShortcut, ResNet


def build(name: str, **options) -> ResNet:
    return ResNet(**CONFIGURATIONS[name], **options)


def on_meta(name: str, **options) -> ResNet:
    with torch.device("meta"):
        return build(name, **options)


def randomise_batch_norm(model: nn.Module) -> None:
    """Make forgotten, swapped or repeated norms show in the output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_keys_and_shapes_are_torchvisions(name: str):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
    ours = on_meta(name).state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


@pytest.mark.parametrize(("name", "zero_init_residual"), [("resnet18", True), ("resnet50", False)])
def test_same_seed_gives_torchvisions_weights(name: str, zero_init_residual: bool):
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, zero_init_residual=zero_init_residual, num_classes=7)
    torch.manual_seed(3)
    ours = build(name, zero_init_residual=zero_init_residual, num_classes=7)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [(1, 1), (33, 50)], ids=["one_pixel", "odd_size"])
def test_outputs_are_torchvisions(name: str, size: tuple[int, int]):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=7).double().eval()
    randomise_batch_norm(theirs)
    ours = build(name, num_classes=7).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-9, rtol=1e-9)


def test_se_resnet50_is_timms():
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("seresnet50", num_classes=7).double().eval()
    randomise_batch_norm(theirs)
    ours = build("se_resnet50", num_classes=7).double().eval()
    wanted = ours.state_dict()
    weights = {k: v.reshape(wanted[k].shape) for k, v in theirs.state_dict().items()}  # timm: 1x1 convolutions
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(2, 3, 33, 50, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("resnet18", 1000, 11_689_512),
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("resnet101", 1000, 44_549_160),
        ("resnet152", 1000, 60_192_808),
        ("se_resnet50", 1000, 28_088_024),
        # He et al., table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million; the units are akamaster's
        ("resnet20_cifar", 10, 269_722),
        ("resnet32_cifar", 10, 464_154),
        ("resnet44_cifar", 10, 658_586),
        ("resnet56_cifar", 10, 853_018),
        ("resnet110_cifar", 10, 1_727_962),
    ],
)
def test_published_parameter_counts(name: str, classes: int, published: int):
    assert count_parameters(on_meta(name, num_classes=classes)) == published


def test_cifar_resnet14_by_hand():
    """3 -> 16, stages of two blocks with 16, 32 and 64 channels, projections between them, linear."""

    def block(inputs: int, outputs: int) -> int:
        projection = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs + projection

    blocks = sum(block(*pair) for pair in [(16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)])
    model = build("resnet14_cifar", num_classes=10)
    assert count_parameters(model) == 9 * 3 * 16 + 2 * 16 + blocks + 64 * 10 + 10
    assert model.forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 64, 8, 8)


def test_se_adds_one_attention_per_block():
    plain, attended = build("resnet14_cifar"), build("se_resnet14_cifar")
    added = sum(2 * c * max(1, c // 16) + max(1, c // 16) + c for c in (16, 16, 32, 32, 64, 64))
    assert count_parameters(attended) - count_parameters(plain) == added


def test_option_a_shortcut():
    x = torch.arange(2 * 5 * 4.0).reshape(1, 2, 5, 4)
    out = PadShortcut(3, stride=2)(x)
    assert out.shape == (1, 5, 3, 2)
    assert out[0, 1].tolist() == [[20, 22], [28, 30], [36, 38]]
    assert not out[0, 2:].any()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_residual_starts_as_the_shortcut(block: str):
    stage = ResNet(block, (2,), (8,), stem="cifar", zero_init_residual=True).get_submodule("layer1")
    last = stage[1]
    assert isinstance(last, BasicBlock | Bottleneck)
    x = torch.rand(2, 8 * last.expansion, 4, 4)
    assert torch.equal(last(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "fancy"}, "block is 'fancy', must be one of basic, bottleneck"),
        ({"stem": "mnist"}, "must be one of imagenet, cifar"),
        ({"shortcut": "AB"}, "must be one of A, B"),
        ({"layers": (2, 2)}, r"layers \(2, 2\) and widths \(64, 128, 256, 512\)"),
        ({"layers": (2, 2, 0, 2)}, "1 or more"),
        ({"layers": (), "widths": ()}, "1 or more"),
    ],
)
def test_bad_settings(options: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        ResNet(**options)
