import pytest
import torch

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.transforms import Preprocessing
from densekit.errors import SettingsError, ShapeError
from densekit.explain.cam import cam, grad_cam
from densekit.explain.heat_maps import METHODS, choose_method, heat_maps
from densekit.models.catalogue import create_model


@pytest.mark.parametrize("method", METHODS)
def test_lights_the_corner_that_holds_the_class(corner_classifier, corner_world, method):
    pictures, classes, _ = corner_world
    assert (corner_classifier.probabilities(pictures).argmax(1) == classes).all()
    maps = heat_maps(corner_classifier, pictures, classes, method=method)
    share = corner_world.share(maps)
    assert share.min() > 0.6  # a quarter would be chance
    assert share.mean() > 0.8


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
    vgg = create_model("vgg11_bn_cifar", num_classes=2)  # leaves one position of 32x32 pixels
    classifier = Classifier(vgg, corner_classifier.classes, corner_classifier.preprocessing)
    assert choose_method(classifier, corner_world.pictures) == "gradcam"
    some, wanted = corner_world.pictures[:2], corner_world.classes[:2]
    expected = torch.nn.functional.interpolate(grad_cam(vgg, some, wanted)[:, None], size=(32, 32), mode="bilinear")
    torch.testing.assert_close(heat_maps(classifier, some, wanted), expected[:, 0])
    assert not vgg.training


def test_wrong_input(corner_classifier, corner_world):
    pictures, classes, _ = corner_world
    with pytest.raises(SettingsError, match="no method 'lime': use cam, gradcam, occlusion, integrated-gradients"):
        heat_maps(corner_classifier, pictures, classes, method="lime")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match=r"given \(16, 3, 32, 32\) and \(3,\)"):
        heat_maps(corner_classifier, pictures, classes[:3])
    with pytest.raises(SettingsError, match=r"classes are numbered 0 to 1, given \[0, 2\]"):
        heat_maps(corner_classifier, pictures[:2], torch.tensor([0, 2]))
    with pytest.raises(SettingsError, match="batch_size=0"):
        heat_maps(corner_classifier, pictures, classes, batch_size=0)


def test_grey_pictures():
    torch.manual_seed(0)
    network = create_model("resnet14_cifar", num_classes=3, in_channels=1)
    classifier = Classifier(network, ("a", "b", "c"), Preprocessing(channels=1, size=(20, 28)))
    for method in METHODS:
        maps = heat_maps(classifier, torch.rand(2, 1, 20, 28), torch.tensor([0, 2]), method=method)
        assert maps.shape == (2, 20, 28), method
        assert maps.isfinite().all()
