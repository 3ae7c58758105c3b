"""Weights for other inputs, other classes and other dimensions, and the report of what became of every tensor."""

import pytest
import torch
from torch import nn

from densekit.errors import CheckpointError
from densekit.models.catalogue import create_model
from densekit.models.transfer import head_name, transfer


def copied(source: nn.Module, target: nn.Module, **options):
    return target, transfer(target, source.state_dict(), **options)


def test_one_channel_sums_the_three_and_equals_them_on_grey_pictures(small, randomise, pictures, same):
    colour = randomise(small())
    grey, result = copied(colour, small(in_channels=1))
    same(grey(pictures[:, :1]), colour(pictures[:, :1].expand(-1, 3, -1, -1)))
    assert dict(result.adapted) == {"features.conv0.weight": "3 input channels to 1"}
    assert "adapted: features.conv0.weight (3 input channels to 1)" in str(result)


@pytest.mark.parametrize("copies", [2, 3])
def test_more_channels_repeat_the_three_and_equal_them_on_repeated_pictures(copies, small, randomise, pictures, same):
    colour = randomise(small())
    wide, _ = copied(colour, small(in_channels=3 * copies))
    same(wide(pictures.repeat(1, copies, 1, 1)), colour(pictures))


@pytest.mark.parametrize(("have", "need"), [(1, 3), (3, 2), (3, 4), (4, 7)])
def test_the_expected_activation_of_the_stem_stays(have, need):
    """Channels of one mean: the response to a constant picture changes with the size of the sums left out only."""
    first, second = (create_model("resnet14_cifar", num_classes=2, in_channels=c).double() for c in (have, need))
    first.conv1.weight.data[:] = torch.rand(16, 1, 3, 3, dtype=torch.float64)  # the channels alike
    transfer(second, first.state_dict())
    constant = torch.ones(1, max(have, need), 8, 8, dtype=torch.float64)
    torch.testing.assert_close(second.conv1(constant[:, :need]), first.conv1(constant[:, :have]))


def replicate_padding(model: nn.Module) -> nn.Module:
    """Zeros around a volume would end it: with its own border repeated, one constant in depth stays so."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.padding_mode = "replicate"
    return model


def test_a_3d_network_inflated_from_2d_equals_it_where_nothing_changes_with_depth(small, randomise, pictures, same):
    flat = replicate_padding(randomise(small()))
    deep, result = copied(flat, replicate_padding(small(spatial_dims=3)))
    volumes = pictures[:, :, None].expand(-1, -1, 34, -1, -1)
    same(deep(volumes), flat(pictures))
    assert result.adapted["features.conv0.weight"] == "repeated over a depth of 7"
    assert result.adapted["features.denseblock1.denselayer1.conv2.weight"] == "repeated over a depth of 3"
    assert "features.denseblock1.denselayer1.conv1.weight" in result.loaded  # 1x1: nothing to repeat
    assert not result.new


def test_inflation_and_channels_together(small, randomise, pictures, same):
    flat = replicate_padding(randomise(small()))
    deep, result = copied(flat, replicate_padding(small(spatial_dims=3, in_channels=1)))
    grey = pictures[:, :1]
    same(deep(grey[:, :, None].expand(-1, -1, 34, -1, -1)), flat(grey.expand(-1, 3, -1, -1)))
    assert result.adapted["features.conv0.weight"] == "repeated over a depth of 7 and 3 input channels to 1"


@pytest.mark.parametrize(
    ("classes", "keep", "reason"),
    [(7, False, "for other classes"), (5, True, "7x34 in the file, 5x34 here")],
    ids=["other_names", "other_number"],
)
def test_other_classes_get_a_new_head_and_keep_the_features(classes, keep, reason, small, pictures, same):
    old, new = small(num_classes=7), small(num_classes=classes)
    before = new.classifier.weight.clone()
    _, result = copied(old, new, keep_head=keep)
    assert torch.equal(new.classifier.weight, before)
    assert set(result.new) == {"classifier.weight", "classifier.bias"}
    assert result.complete
    same(new.forward_features(pictures), old.forward_features(pictures))
    assert result.new["classifier.weight"] == reason


def test_what_the_file_lacks_is_new_and_named(small, pictures):
    plain, attentive = small(), small(se_reduction=4)
    before = {key: value.clone() for key, value in attentive.state_dict().items()}
    _, result = copied(plain, attentive)
    attention = {key for key in before if ".se." in key}
    assert set(result.new) == attention
    assert all(torch.equal(attentive.state_dict()[key], before[key]) for key in attention)
    assert not result.complete
    assert f"{sorted(attention)[0].rpartition('.')[0]}" in str(result)
    assert f"and {len(attention) - 1} more (not in the file)" in str(result)


def test_a_partly_fitting_file_says_which_shapes_differ(small):
    _, result = copied(small(block_config=(2, 3, 3, 2)), small())
    assert result.new["features.transition3.norm.weight"] == "44 in the file, 36 here"
    assert all("denseblock3.denselayer3" in key for key in result.unused)
    assert not result.complete
    assert "left over in the file: features.denseblock3.denselayer3" in str(result)


def test_every_tensor_of_both_sides_is_accounted_for(small):
    source, target = small(block_config=(2, 3, 3, 2), num_classes=3), small(se_reduction=4, in_channels=1)
    _, result = copied(source, target)
    counts = {key for key in target.state_dict() if key.endswith("num_batches_tracked")}
    parts = [*result.loaded, *result.adapted, *result.new]
    assert len(parts) == len(set(parts))
    assert set(parts) | counts == set(target.state_dict())
    rows = result.rows()
    assert {row["tensor"] for row in rows if row["became"] != "left over"} == set(parts)
    assert {row["tensor"] for row in rows if row["became"] == "left over"} == set(result.unused)
    taken = len(result.loaded) + len(result.adapted)
    assert str(result).startswith(f"{taken} of {len(parts)} tensors taken; adapted: features.conv0.weight (3 ")


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(create_model("resnet14_cifar").state_dict(), id="another_family"),
        pytest.param(create_model("densenet_bc100_k12_cifar", num_classes=7).state_dict(), id="another_width"),
        pytest.param({"classifier.weight": torch.zeros(7, 61), "classifier.bias": torch.zeros(7)}, id="a_head_alone"),
        pytest.param({"x": torch.zeros(3)}, id="anything"),
    ],
)
def test_weights_of_another_network_are_an_error(tensors, small):
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"of another network: they have \S+ [\dx]+, where features.conv0.weight"):
        transfer(model, tensors)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_two_networks_in_a_file_the_average_wins(small):
    raw, average, target = small(), small(), small()
    both = {f"{name}.{key}": value for name, model in (("model", raw), ("model_ema", average)) for key, value in
            model.state_dict().items()}  # fmt: skip
    for tensors in (both, dict(reversed(both.items()))):
        result = transfer(target, tensors)
        torch.testing.assert_close(target.state_dict(), average.state_dict(), atol=0, rtol=0)
        assert all(key.startswith("model.") for key in result.unused)


def test_weights_reach_a_compiled_network_and_torchvisions_own(small, foreign):
    source = foreign("timm")
    for target in (torch.compile(small(), backend="eager"), foreign("torchvision")):
        transfer(target, source.state_dict())
        plain = getattr(target, "_orig_mod", target)
        torch.testing.assert_close(dict(plain.state_dict()), dict(source.state_dict()), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("densenet_plain_4_4_4_4", {}, "classifier"),
        ("densenet_plain_4_4_4_4", {"features_only": True}, None),
        ("resnet14_cifar", {}, "fc"),
        ("vgg11_bn_cifar", {}, "classifier"),
        ("simple_cnn", {}, "classifier"),
    ],
)
def test_the_head_makes_the_logits(name, options, head):
    with torch.device("meta"):
        model = create_model(name, num_classes=5, **options)
    assert head_name(model) == head
    if head:
        assert model.get_submodule(head).out_features == 5
        assert list(model.parameters())[-2:] == list(model.get_submodule(head).parameters())


def test_a_network_with_more_than_this_one_is_doubted(small):
    """Every tensor of this network is found in the file, and yet it computes something else."""
    deep, shallow = (create_model(f"resnet{layers}", num_classes=7) for layers in (34, 18))
    for source, target in ((small(se_reduction=4), small()), (deep, shallow)):
        _, result = copied(source, target)
        assert not result.new
        assert not result.complete
        assert "is it of another network? This one has parts, but no tensors, for " in str(result)


def test_what_else_is_in_a_file_raises_no_doubt(small):
    source = small()
    tensors = {**source.state_dict(), "decoder.weight": torch.ones(2), "optimizer.state.0.exp_avg": torch.ones(2)}
    result = transfer(small(), tensors)
    assert result.complete
    assert result.unused == ("decoder.weight", "optimizer.state.0.exp_avg")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value, small):
    model, tensors = small(), small().state_dict()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tensors["features.norm5.bias"][3] = value
    with pytest.raises(
        CheckpointError, match=r"features.norm5.bias is not finite: the file is damaged, or its training"
    ):
        transfer(model, tensors)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_whole_numbers_are_no_weights(small):
    tensors = small().state_dict()
    key = "features.denseblock2.denselayer1.conv1.weight"
    result = transfer(small(), {**tensors, key: tensors[key].to(torch.int8)})
    assert dict(result.new) == {key: "int8 in the file"}
    with pytest.raises(CheckpointError, match="of another network"):
        transfer(small(), {key: tensor.to(torch.int8) for key, tensor in tensors.items()})


def test_norms_alone_are_no_weights(small):
    norms = {key: value for key, value in small().state_dict().items() if ".norm" in key}
    with pytest.raises(CheckpointError, match="of another network"):
        transfer(small(), norms)


def named(**models):
    return {f"{name}.{key}": value for name, tensors in models.items() for key, value in tensors.items()}


def test_an_average_of_weights_alone_takes_the_statistics_of_the_other(small, randomise):
    raw, average, target = randomise(small()), small(), small()
    weights = dict(average.named_parameters())
    result = transfer(target, named(model=raw.state_dict(), ema=weights))
    assert result.complete
    for key, value in target.state_dict().items():
        assert torch.equal(value, weights[key] if key in weights else raw.state_dict()[key]), key


@pytest.mark.parametrize("name", ["model_ema", "ema", "state_dict_ema", "swa_state_dict", "averaged_model"])
def test_names_of_averages(name, small):
    raw, average, target = small(), small(), small()
    transfer(target, named(student=raw.state_dict(), **{name: average.state_dict()}))
    torch.testing.assert_close(target.state_dict(), average.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("other", ["teacher", "schema_net", "email"])
def test_of_two_networks_the_first_is_taken_and_named(other, small):
    first, second, target = small(), small(), small()
    result = transfer(target, named(net=first.state_dict(), **{other: second.state_dict()}))
    torch.testing.assert_close(target.state_dict(), first.state_dict(), atol=0, rtol=0)
    assert not result.complete
    assert str(result).endswith("the file has several such networks: that of 'net' is taken")


@pytest.mark.parametrize("place", [0, 1], ids=["linear_sigmoid", "dropout_linear"])
def test_a_head_in_sequence_with_what_has_no_weights(place, small, pictures, same):
    source, target = small(), small()
    tensors = {key.replace("classifier.", f"classifier.{place}."): value for key, value in source.state_dict().items()}
    assert not transfer(target, tensors).new
    same(target(pictures), source(pictures))


def test_a_head_of_several_layers_is_not_its_first(small):
    source, target = small(), small()
    tensors = {key.replace("classifier.", "classifier.0."): value for key, value in source.state_dict().items()}
    tensors |= {"classifier.2.weight": torch.ones(7, 7), "classifier.2.bias": torch.ones(7)}
    before = target.classifier.weight.clone()
    result = transfer(target, tensors)
    assert set(result.new) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(target.classifier.weight, before)
    assert not result.complete


def test_many_reasons_stay_one_short_line(small):
    _, result = copied(small(growth_rate=4), small())
    assert "more reasons" in str(result)
    assert len(str(result)) < 600
