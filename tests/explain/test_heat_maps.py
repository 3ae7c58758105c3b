import pytest
import torch
from torch import Tensor, nn

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.preprocessing import Preprocessing
from densekit.errors import SettingsError, ShapeError, UnknownNameError
from densekit.explain.cam import cam, grad_cam
from densekit.explain.heat_maps import METHODS, choose_method, heat_maps
from densekit.models.catalogue import create_model
from densekit.models.ending import run_to_ending


@pytest.mark.parametrize("method", METHODS)
def test_lights_the_corner_that_holds_the_class(corner_classifier, corner_world, method):
    pictures, classes, _ = corner_world
    assert (corner_classifier.probabilities(pictures).argmax(1) == classes).all()
    maps = heat_maps(corner_classifier, pictures, classes, method=method)
    share = corner_world.share(maps)
    assert share.min() > 0.6  # a quarter would be chance
    assert share.mean() > 0.8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_are_the_same_where_gradients_are_off(corner_classifier, corner_world, method, mode):
    pictures, classes = corner_world.pictures[:2], corner_world.classes[:2]
    expected = heat_maps(corner_classifier, pictures, classes, method=method)
    with mode():
        seen = heat_maps(corner_classifier, pictures.clone(), classes, method=method)
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 100], ids=lambda n: f"batch_of_{n}")
def test_batches_change_nothing(corner_classifier, corner_world, batch_size):
    pictures, classes, _ = corner_world
    with Screen(quiet=True).bar("explaining", 16) as bar:
        maps = heat_maps(corner_classifier, pictures, classes, batch_size=batch_size, bar=bar)
        assert bar.progress.tasks[0].completed == 16
    assert (maps.shape, maps.dtype) == ((16, 32, 32), torch.float32)
    one_by_one = [cam(corner_classifier.network, pictures[i : i + 1], classes[i : i + 1]) for i in range(16)]
    # every value of the 16x16 map covers 2x2 pixels: interpolation keeps the mean over them nearly, and over all
    torch.testing.assert_close(maps.mean((1, 2)), torch.cat(one_by_one).mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_default_is_exact_where_that_is_possible(corner_classifier, corner_world):
    assert choose_method(corner_classifier, corner_world.pictures) == "cam"
    vgg = create_model("vgg11_bn_cifar", num_classes=2).eval()  # leaves one position of 32x32 pixels
    classifier = Classifier(vgg, corner_classifier.classes, corner_classifier.preprocessing)
    assert choose_method(classifier, corner_world.pictures) == "gradcam"
    some, wanted = corner_world.pictures[:2], corner_world.classes[:2]
    expected = torch.nn.functional.interpolate(grad_cam(vgg, some, wanted)[:, None], size=(32, 32), mode="bilinear")
    torch.testing.assert_close(heat_maps(classifier, some, wanted), expected[:, 0])
    vgg.train()
    heat_maps(classifier, some, wanted)
    assert vgg.training


class Rearranged(nn.Module):
    """What is read last in four dimensions is no map: channels last, or attention's heads, tokens and channels."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.convolution, self.head = kind, nn.Conv2d(3, 32, 4, stride=4), nn.Linear(32, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.convolution(pictures)
        if self.kind == "channels last":  # as ConvNeXt's last norm, (N, 1, 1, C)
            return self.head(nn.functional.layer_norm(x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1), (32,))[:, 0, 0])
        tokens = x.flatten(2).transpose(1, 2).unflatten(2, (2, 16)).transpose(1, 2)  # (N, heads, 16 tokens, 16)
        seen = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(seen.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("kind", ["channels last", "attention"])
def test_a_map_is_as_high_for_its_width_as_the_picture(kind):
    torch.manual_seed(0)
    network = Rearranged(kind).eval()
    ending = run_to_ending(network, pictures := torch.rand(2, 3, 16, 16))
    assert ending.features.shape == (2, 32, 4, 4)
    torch.testing.assert_close(ending.features, network.convolution(pictures))
    assert ending.weight is None  # what stands between them and the logits is not linear


@pytest.mark.parametrize("size", [(33, 38), (20, 61), (96, 96), (40, 12)], ids=str)
def test_maps_of_pictures_of_any_shape_are_found(size):
    network = create_model("densenet_plain_4_4_4_4", num_classes=2, in_channels=3, stem="cifar").eval()
    assert run_to_ending(network, torch.rand(1, 3, *size)).weight is not None


def test_wrong_input(corner_classifier, corner_world):
    pictures, classes, _ = corner_world
    with pytest.raises(UnknownNameError, match="unknown method 'lime'; there are: cam, gradcam, integrated-gradients"):
        heat_maps(corner_classifier, pictures, classes, method="lime")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match=r"given \(16, 3, 32, 32\) and \(3,\)"):
        heat_maps(corner_classifier, pictures, classes[:3])
    with pytest.raises(SettingsError, match=r"classes are numbered 0 to 1, given \[0, 2\]"):
        heat_maps(corner_classifier, pictures[:2], torch.tensor([0, 2]))
    with pytest.raises(SettingsError, match="batch_size=0"):
        heat_maps(corner_classifier, pictures, classes, batch_size=0)


def test_classes_may_be_a_list(corner_classifier, corner_world):
    pictures = corner_world.pictures[:3]
    names = [corner_classifier.classes[number] for number in (1, 0, 1)]
    first, *others = (
        heat_maps(corner_classifier, pictures, each) for each in (torch.tensor([1, 0, 1]), [1, 0, 1], names)
    )
    assert all(torch.equal(first, other) for other in others)
    with pytest.raises(UnknownNameError, match="unknown class 'uprigth'; did you mean: upright"):
        heat_maps(corner_classifier, pictures[:1], ["uprigth"])
    with pytest.raises(SettingsError, match="given by their numbers"):
        heat_maps(corner_classifier, pictures, torch.zeros(3))


def test_grey_pictures():
    torch.manual_seed(0)
    network = create_model("resnet14_cifar", num_classes=3, in_channels=1)
    classifier = Classifier(network, ("a", "b", "c"), Preprocessing(channels=1, size=(20, 28)))
    for method in METHODS:
        maps = heat_maps(classifier, torch.rand(2, 1, 20, 28), torch.tensor([0, 2]), method=method)
        assert maps.shape == (2, 20, 28), method
        assert maps.isfinite().all()
