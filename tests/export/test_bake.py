"""Preprocessing in the network against torchvision's, on a photograph and on noise."""

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from densekit.data.preprocessing import Preprocessing
from densekit.export.bake import FromBytes, resampling
from densekit.export.targets import Options, find_target
from densekit.runtimes.exported import open_exported

SIZES = {
    "both_shrink": (120, 200),
    "both_grow": (20, 15),
    "one_shrinks": (64, 18),
    "fits_already": (32, 24),
    "tall": (211, 40),
    "one_pixel": (1, 1),
}


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


def test_shrinking_weights_are_a_triangle_over_all_pixels_it_covers():
    weights = resampling(torch.arange(4), torch.tensor(2), 2, "bilinear")
    torch.testing.assert_close(weights, torch.tensor([[3.0, 3, 1, 0], [0, 1, 3, 3]]) / 7)


def test_line_that_fits_is_only_cut():
    weights = resampling(torch.arange(7), torch.tensor(7), 4, "bicubic")  # 1.5 pixels spare on each side: rounds to 2
    torch.testing.assert_close(weights, torch.eye(7)[2:6])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_pixels_are_those_of_torchvision_but_for_rounding(photograph, size, interpolation, resize, channels):
    fraction = 0.875 if resize == "crop" else 1.0
    shared = {
        "resize": resize,
        "crop_fraction": fraction,
        "interpolation": interpolation,
        "mean": (0.4,),
        "std": (0.3,),
    }
    outside = Preprocessing(channels=channels, size=(32, 24), **shared)
    inside = FromBytes(torch.nn.Identity(), outside)
    height, width = size
    picture = photograph.resize((width, height))
    found = inside(outside.model_copy(update={"in_network": True})(picture)[None])[0]
    levels = (found - outside(picture)).abs() * 0.3 * 255
    assert found.shape == (channels, 32, 24)
    assert levels.max() < 2.01  # the two of an enlargement by exactly 1.5, where every half is rounded
    assert (levels > 0.01).float().mean() < 0.3  # torchvision rounds its weights to 16 bits


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_every_runtime_computes_the_same_from_bytes(make, photograph, to, tmp_path):
    classifier = make("simple_cnn", image_size=[20, 24], size=(20, 24))
    cropping = classifier.preprocessing.model_copy(update={"resize": "crop", "crop_fraction": 0.9})
    object.__setattr__(classifier, "preprocessing", cropping)
    options = Options(bake_preprocessing=True)
    path = find_target(to, int8=False, bake_preprocessing=True).write(classifier, tmp_path, options)
    exported = open_exported(tmp_path, {"target": to, "file": path.name})
    reference = FromBytes(classifier.network, cropping)
    baked = cropping.model_copy(update={"in_network": True})
    for sizes in ([(90, 60)], [(24, 20)], [(61, 75), (61, 75)]):
        pictures = torch.stack([baked(photograph.rotate(9 * i).resize(size)) for i, size in enumerate(sizes)])
        with torch.inference_mode():
            torch.testing.assert_close(exported(pictures), reference(pictures), rtol=0.02, atol=0.02)
