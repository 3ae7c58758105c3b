import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode, v2

from densekit.data.datasets import open_data
from densekit.data.normalisation import KNOWN_NORMALISATIONS, Normalisation, normalisation_for
from densekit.data.picture_set import DataSet, PictureSet
from densekit.data.preprocessing import Preprocessing
from densekit.data.seeding import seeded
from densekit.data.settings import Augmentation
from densekit.data.transforms import mix_batch, training_transform
from densekit.errors import DataError


def picture(height, width, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def test_definition_where_the_size_fits():
    """(value / 255 - mean) / std in float64, channels first; no pixel is resampled."""
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    rgb = picture(5, 7)
    ours = Preprocessing(size=(5, 7), mean=mean, std=std)(rgb)
    reference = (np.asarray(rgb).astype(np.float64) / 255 - mean) / std
    assert ours.dtype == torch.float32
    assert_close(ours.double(), torch.from_numpy(reference.transpose(2, 0, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(100, 60), (60, 100), (20, 20), (1, 1), (3, 200), (257, 256), (67, 64), (64, 67)],
    ids=["tall", "wide", "enlarged", "one_pixel", "extreme", "nearly_square", "odd_height_over", "odd_width_over"],
)
def test_crop_is_torchvisions_resize_and_centre_crop(height, width, interpolation):
    ours = Preprocessing(size=(56, 56), resize="crop", crop_fraction=0.875, interpolation=interpolation)
    mode = InterpolationMode(interpolation)
    reference = v2.Compose([v2.Resize(64, mode), v2.CenterCrop(56), v2.ToDtype(torch.float32, scale=True)])
    image = picture(height, width)
    assert_close(ours(image), reference(v2.functional.pil_to_tensor(image)))


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("size", [(8, 24), (33, 7), (1, 1)])
@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.33])
def test_any_size_comes_out(resize, size, fraction):
    preprocessing = Preprocessing(size=size, resize=resize, crop_fraction=fraction)
    for height, width in [(24, 8), (7, 33), (1, 50), (49, 49)]:
        assert preprocessing(picture(height, width)).shape == (3, *size)


def test_squash_keeps_the_whole_picture():
    half = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(4, axis=0))  # (4, 16)
    squashed = Preprocessing(channels=1, size=(4, 4))(half)
    assert squashed[0, 0, 0] < 0.1
    assert squashed[0, 0, 3] > 0.9
    cropped = Preprocessing(channels=1, size=(4, 4), resize="crop")(half)
    assert_close(cropped[0, 0], torch.tensor([0.0, 0, 1, 1]))


def test_channels():
    assert_close(Preprocessing(channels=3, size=(4, 4))(picture(4, 4, 1)).std(0), torch.zeros(4, 4))
    grey = Preprocessing(channels=1, size=(4, 4))(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert_close(grey, torch.full((1, 4, 4), 0.299), atol=1 / 255, rtol=0)  # ITU-R 601 luma of red


def test_json_round_trip_and_pickling():
    preprocessing = Preprocessing(channels=1, size=(9, 8), resize="crop", crop_fraction=0.9, mean=(0.1,), std=(0.3,))
    again = Preprocessing.model_validate_json(preprocessing.model_dump_json())
    assert again == preprocessing
    image = picture(20, 30)
    transform = pickle.loads(pickle.dumps(training_transform(again, Augmentation(flip=True, trivial_augment=True))))
    with seeded(1):
        pickled = transform(image)
    with seeded(1):
        assert_close(training_transform(preprocessing, Augmentation(flip=True, trivial_augment=True))(image), pickled)


WRONG = {
    "two_means": ({"mean": (0.1, 0.2)}, "each of the 3 channels"),
    "zero_std": ({"std": (0.0,)}, "greater than 0"),
    "two_channels": ({"channels": 2}, "1 or 3"),
    "no_height": ({"size": (0, 3)}, "greater than 0"),
    "unknown_name": ({"crop": 3}, "Extra inputs"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_wrong_preprocessing(fields, message):
    with pytest.raises(ValidationError, match=message):
        Preprocessing(**{"size": (4, 4), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_padding": 2, "random_resized_crop": True},
        {"crop_scale": (0.5, 0.2)},
        {"mixup": -1},
        {"flips": True},
    ],
    ids=str,
)
def test_wrong_augmentation(fields):
    with pytest.raises(ValidationError):
        Augmentation(**fields)


def test_no_augmentation_is_preprocessing():
    preprocessing = Preprocessing(size=(16, 16), mean=(0.5,), std=(0.5,))
    image = picture(31, 20)
    assert_close(training_transform(preprocessing, Augmentation())(image), preprocessing(image))


def test_pad_crop_flip_gives_every_shift_mirrored_or_not():
    image = picture(6, 6, 1)
    transform = training_transform(Preprocessing(channels=1, size=(6, 6)), Augmentation(crop_padding=1, flip=True))
    padded = np.pad(np.asarray(image), 1)
    shifts = [padded[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    allowed = {view.tobytes() for shift in shifts for view in (shift, np.ascontiguousarray(shift[:, ::-1]))}
    seen = set()
    for seed in range(300):
        with seeded(seed):
            seen.add((transform(image)[0] * 255).round().byte().numpy().tobytes())
    assert seen == allowed


def test_both_flips_give_all_four_views():
    image = picture(6, 5, 1)
    both = Augmentation(flip=True, vertical_flip=True)
    transform, pixels = training_transform(Preprocessing(channels=1, size=(6, 5)), both), np.asarray(image)
    seen = set()
    for seed in range(40):
        with seeded(seed):
            seen.add((transform(image)[0] * 255).round().byte().numpy().tobytes())
    assert seen == {pixels[::y, ::x].tobytes() for y in (1, -1) for x in (1, -1)}


def test_rotation_turns_by_no_more_than_its_degrees():
    """A bright line from the middle to the right: where its far end goes is the angle."""
    line = np.zeros((101, 101), np.uint8)
    line[49:52, 50:] = 255
    transform = training_transform(Preprocessing(channels=1, size=(101, 101)), Augmentation(rotation=30))
    angles = []
    for seed in range(60):
        with seeded(seed):
            turned = transform(Image.fromarray(line))[0]
        rows, columns = (turned > 0.5).nonzero(as_tuple=True)
        angles.append(math.degrees(math.atan2((rows - 50.0).mean(), (columns - 50.0).mean())))
    assert 20 < max(angles) < 32
    assert -32 < min(angles) < -20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotation=40),
        Augmentation(random_resized_crop=True),
        Augmentation(trivial_augment=True),
        Augmentation(random_erasing=1),
    ],
    ids=["rotation", "random_resized_crop", "trivial_augment", "random_erasing"],
)
def test_augmentations_change_pictures_reproducibly(channels, augmentation):
    transform = training_transform(Preprocessing(channels=channels, size=(24, 20)), augmentation)
    image = picture(40, 30)

    def draw(seed):
        with seeded(seed):
            return transform(image)

    assert draw(0).shape == (channels, 24, 20)
    assert_close(draw(3), draw(3), rtol=0, atol=0)
    assert len({draw(seed).numpy().tobytes() for seed in range(8)}) > 4


@pytest.mark.parametrize(
    "augmentation", [Augmentation(mixup=0.4), Augmentation(cutmix=1), Augmentation(mixup=1, cutmix=1)]
)
def test_mixing_shares_labels_as_it_shares_pixels(augmentation):
    """Picture i is the constant i: mixed pixels then tell each picture's share (in CutMix, by area)."""
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()
    labels = torch.arange(4)
    mixed, shares = mix_batch(pictures, labels, 4, augmentation, seed=0, epoch=0, step=5)
    assert_close(shares.sum(1), torch.ones(4))
    assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0))
    again, _ = mix_batch(pictures, labels, 4, augmentation, seed=0, epoch=0, step=5)
    assert_close(mixed, again, rtol=0, atol=0)
    other, _ = mix_batch(pictures, labels, 4, augmentation, seed=0, epoch=1, step=5)
    assert not torch.equal(mixed, other)


def test_seeded_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, 2):
        inside = torch.rand(3)
    assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert not torch.equal(inside, expected)


def array_set(pictures, name="photos"):
    return DataSet(name, ("a", "b"), PictureSet(pictures, np.zeros(len(pictures), np.int64), "train"))


def test_measured_normalisation_is_numpys_mean_and_std():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6, 7, 3), dtype=np.uint8)
    mean, std = normalisation_for(array_set(pixels), Preprocessing(size=(6, 7)))
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)) / 255, rtol=1e-12)
    sampled = normalisation_for(array_set(pixels), Preprocessing(size=(6, 7)), sample=5)
    assert sampled != (mean, std)
    np.testing.assert_allclose(sampled.mean, mean, atol=0.05)


def test_constant_channel_is_left_as_it_is():
    constant = normalisation_for(array_set(np.full((3, 4, 4), 51, np.uint8)), Preprocessing(channels=1, size=(4, 4)))
    assert constant == Normalisation((0.2,), (1.0,))


def test_known_normalisation_only_where_the_channels_fit():
    data = open_data("digits")
    assert normalisation_for(data, Preprocessing(channels=1, size=(8, 8))).std[0] == pytest.approx(0.3761, abs=0.002)
    cifar = array_set(np.zeros((2, 4, 4, 3), np.uint8), "cifar10")
    assert normalisation_for(cifar, Preprocessing(size=(4, 4))) == KNOWN_NORMALISATIONS["cifar10"]
    assert normalisation_for(cifar, Preprocessing(channels=1, size=(4, 4))).mean == (0.0,)


def test_unreadable_pictures_are_passed_over(make_folder, screen):
    train = open_data(make_folder({"a": 3, "b": 3}), val_fraction=0, test_fraction=0, screen=screen).train
    preprocessing = Preprocessing(size=(6, 8))
    before = normalisation_for(DataSet("x", ("a", "b"), train.select([0, 1, 2, 3, 4])), preprocessing)
    train.pictures[5].write_bytes(b"")
    after = normalisation_for(DataSet("x", ("a", "b"), train), preprocessing)
    assert after == before
    with pytest.raises(DataError, match="none of 1 training pictures"):
        normalisation_for(DataSet("x", ("a", "b"), train.select([5])), preprocessing)


def test_crop_scale_bounds_the_part_that_is_left():
    """Of a picture whose values are its columns: how many of them a cut still shows."""
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (100, 1)))
    augmentation = Augmentation(random_resized_crop=True, crop_scale=(0.9, 1.0))
    transform = training_transform(Preprocessing(channels=1, size=(50, 50)), augmentation)
    for seed in range(50):
        with seeded(seed):
            cut = transform(ramp)[0, 0] * 255
        assert cut.max() - cut.min() > 75  # 0.9 of the area, at most 4/3 as high as wide


def test_erasing_is_as_frequent_as_was_asked():
    transform = training_transform(Preprocessing(channels=1, size=(8, 8)), Augmentation(random_erasing=0.1))
    image, erased = Image.new("L", (8, 8), 200), 0
    for seed in range(400):
        with seeded(seed):
            erased += bool((transform(image) == 0).any())
    assert 18 < erased < 66  # 40, and four standard deviations


def test_known_normalisations_are_the_published_ones():
    """Those of CIFAR-100 as everybody computes them from its pixels, to three digits."""
    known = KNOWN_NORMALISATIONS["cifar100"]
    np.testing.assert_allclose(known.mean, (0.507, 0.487, 0.441), atol=6e-4)
    np.testing.assert_allclose(known.std, (0.267, 0.256, 0.276), atol=6e-4)
