"""Each rung against the one below, examples on paper exactly, the top rung against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.errors import SettingsError, ShapeError
from densekit.reference.convolution import convolve, convolve_channel, convolve_channels, output_size
from densekit.reference.filters import LAPLACIAN

ROWS = [
    ["002201", "022002", "110200", "221100", "201201", "202101"],
    ["202111", "010022", "100210", "111111", "101112", "212102"],
]
TWO_CHANNELS = np.array([[[int(digit) for digit in row] for row in channel] for channel in ROWS])  # (2, 6, 6)
PLUS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
ONE_CHANNEL = np.array([[1, 1, 2, 1], [0, 1, 0, 2], [2, 2, 0, 2], [2, 2, 2, 1], [2, 3, 2, 3]])
TALL_KERNEL = np.array([[1, 0], [0, 1], [0, 0]])


def test_two_channels_on_paper():
    expected = [[[0, 0, 0, 0], [0, 8, 10, 0], [0, -5, 2, 0], [0, 0, 0, 0]]]
    output = convolve_channels(TWO_CHANNELS, np.array([[PLUS, LAPLACIAN]]), padding=3, stride=3)
    assert np.issubdtype(output.dtype, np.integer)
    assert output.tolist() == expected
    assert convolve(TWO_CHANNELS[None], np.array([[PLUS, LAPLACIAN]]), padding=3, stride=3)[0].tolist() == expected


def test_small_types_do_not_wrap_around():
    bright, ones = np.full((3, 3), 200, np.uint8), np.ones((3, 3), np.uint8)
    assert convolve_channel(bright, ones).tolist() == [[1800]]
    assert convolve_channels(bright[None], ones[None, None]).tolist() == [[[1800]]]
    assert convolve(bright[None, None], ones[None, None]).tolist() == [[[[1800]]]]


@pytest.mark.parametrize(
    ("padding", "stride", "expected"),
    [
        ((1, 0), (1, 1), [[1, 2, 1], [2, 1, 4], [2, 1, 2], [4, 4, 1], [5, 4, 5]]),
        ((2, 1), (1, 2), [[0, 0, 0], [1, 2, 0], [0, 1, 1], [2, 1, 2], [2, 4, 2], [2, 4, 1], [0, 3, 3]]),
    ],
    ids=["padding_of_height", "padding_and_stride_of_both"],
)
def test_rectangular_kernel_on_paper(padding, stride, expected):
    output = convolve(ONE_CHANNEL[None, None], TALL_KERNEL[None, None], padding=padding, stride=stride)
    assert np.issubdtype(output.dtype, np.integer)
    assert output[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "padding", "stride"),
    [
        ((1, 1), (1, 1), 1, 0, 1),
        ((3, 5), (7, 4), 3, 1, 1),
        ((2, 3), (9, 8), 2, 0, 3),
        ((4, 1), (3, 6), 5, 2, 2),
    ],
    ids=["one_pixel", "odd_channels", "stride_skips_pixels", "kernel_larger_than_picture"],
)
def test_rungs_agree(random, channels, size, kernel, padding, stride):
    images = random.integers(-9, 10, (channels[0], *size))
    kernels = random.integers(-9, 10, (channels[1], channels[0], kernel, kernel))
    settings = {"padding": padding, "stride": stride}
    first = [sum(convolve_channel(i, k, **settings) for i, k in zip(images, row, strict=True)) for row in kernels]
    second = convolve_channels(images, kernels, **settings)
    third = convolve(images[None], kernels, **settings)
    np.testing.assert_array_equal(second, np.stack(first))
    np.testing.assert_array_equal(third, second[None])


@pytest.mark.parametrize(
    ("images", "kernels", "padding", "stride", "groups"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), 0, 1, 1),
        ((2, 3, 7, 5), (4, 3, 3, 3), 1, 1, 1),
        ((3, 2, 9, 6), (5, 2, 1, 4), (0, 3), (2, 1), 1),
        ((2, 6, 5, 8), (9, 2, 3, 2), (2, 0), (1, 3), 3),
        ((2, 4, 6, 6), (8, 1, 3, 3), 1, 2, 4),
        ((1, 3, 23, 19), (8, 3, 7, 7), 3, 2, 1),
    ],
    ids=["one_pixel", "odd_channels", "flat_kernel", "three_groups", "depthwise", "stem"],
)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
def test_convolve_equals_pytorch(random, images, kernels, padding, stride, groups, with_bias):
    arrays = [random.normal(size=images), random.normal(size=kernels)]
    arrays += [random.normal(size=kernels[0])] if with_bias else []
    settings = {"padding": padding, "stride": stride, "groups": groups}
    expected = F.conv2d(*map(torch.from_numpy, arrays), **settings).numpy()
    np.testing.assert_allclose(convolve(*arrays, **settings), expected, rtol=1e-12, atol=1e-12)


def test_single_precision_stays_single(random):
    images, kernels = random.normal(size=(1, 2, 4, 4)), random.normal(size=(3, 2, 3, 3))
    assert convolve(images.astype(np.float32), kernels.astype(np.float32)).dtype == np.float32


def test_output_size_equals_pytorch():
    cases = [(size, k, p, s) for size in range(1, 9) for k in range(1, 6) for p in range(3) for s in range(1, 4)]
    for size, k, p, s in cases:
        if size + 2 * p >= k:
            expected = F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, k), padding=p, stride=s).shape[-1]
            assert output_size(size, k, padding=p, stride=s) == expected, (size, k, p, s)


@pytest.mark.parametrize(("size", "kernel"), [(3, 4), (3, 5), (2, 7)], ids=["one_short", "two_short", "five_short"])
def test_the_padding_that_the_error_names_is_the_least_that_works(size, kernel):
    with pytest.raises(ShapeError, match=rf"kernel up to {size}, or a padding of at least (\d)") as caught:
        output_size(size, kernel)
    least = int(str(caught.value)[-1])
    assert output_size(size, kernel, padding=least) >= 1
    with pytest.raises(ShapeError):
        output_size(size, kernel, padding=least - 1)


@pytest.mark.parametrize(
    "settings",
    [{"kernel": 0}, {"kernel": 3, "stride": 0}, {"kernel": 3, "padding": -1}],
    ids=["no_kernel", "no_stride", "negative_padding"],
)
def test_impossible_settings(settings):
    with pytest.raises(SettingsError, match="kernel and stride start at 1, padding at 0"):
        output_size(8, **settings)


@pytest.mark.parametrize(
    ("images", "kernels", "message"),
    [
        ((3, 8, 8), (4, 3, 3, 3), r"images of shape \(3, 8, 8\): expected \(N, C_in, H, W\)"),
        ((1, 3, 8, 8), (3, 3, 3), r"kernels of shape \(3, 3, 3\): expected \(C_out, C_in / groups, kh, kw\)"),
        ((1, 3, 8, 8), (4, 2, 3, 3), "see 2 channels; 3 input channels in 1 group.s. need 3"),
        ((1, 3, 8, 2), (4, 3, 3, 3), "kernel of 3 does not fit an input of 2"),
    ],
    ids=["no_batch", "no_input_channels", "other_channels", "too_narrow"],
)
def test_arrays_that_do_not_fit(images, kernels, message):
    with pytest.raises(ShapeError, match=message):
        convolve(np.zeros(images), np.zeros(kernels))


def test_bias_and_groups_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"bias has shape \(3,\); 4 output channels need \(4,\)"):
        convolve(np.zeros((1, 2, 4, 4)), np.zeros((4, 2, 3, 3)), np.zeros(3))
    with pytest.raises(SettingsError, match="2 groups cannot share 3 input and 4 output channels"):
        convolve(np.zeros((1, 3, 4, 4)), np.zeros((4, 1, 3, 3)), groups=2)


def test_teaching_rungs_point_to_the_general_one():
    with pytest.raises(ShapeError, match=r"expected a square; convolve\(\) takes rectangles"):
        convolve_channel(ONE_CHANNEL, TALL_KERNEL)
    with pytest.raises(ShapeError, match=r"expected \(C_in, H, W\)"):
        convolve_channels(ONE_CHANNEL, np.ones((1, 1, 3, 3)))
    with pytest.raises(ShapeError, match="see 1 channels; 2 input channels"):
        convolve_channels(TWO_CHANNELS, np.ones((1, 1, 3, 3)))
