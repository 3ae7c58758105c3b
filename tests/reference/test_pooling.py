import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.errors import SettingsError, ShapeError
from densekit.reference.pooling import average_pool, global_average_pool, max_pool


@pytest.mark.parametrize(
    ("shape", "kernel", "padding", "stride"),
    [
        ((1, 1, 1, 1), 1, 0, None),
        ((2, 3, 7, 5), 2, 0, None),
        ((2, 5, 8, 8), 3, 1, 2),
        ((3, 1, 9, 4), (4, 2), (2, 1), (1, 3)),
        ((1, 2, 6, 7), (1, 3), (0, 1), None),
        ((2, 2, 8, 8), 8, 0, None),
    ],
    ids=["one_pixel", "odd_size", "overlapping", "each_axis_its_own", "flat_window", "whole_picture"],
)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(max_pool, F.max_pool2d), (average_pool, F.avg_pool2d)], ids=["max", "average"]
)
def test_pooling_equals_pytorch(random, shape, kernel, padding, stride, ours, theirs):
    images = random.normal(size=shape) - 3  # mostly negative: padding with zeros would win a maximum
    expected = theirs(torch.from_numpy(images), kernel, stride=stride, padding=padding).numpy()
    np.testing.assert_allclose(ours(images, kernel, padding=padding, stride=stride), expected, rtol=1e-12)


def test_max_pooling_keeps_whole_numbers():
    pooled = max_pool(np.array([[[[-5, -2], [-7, -9]]]]), 2, padding=1)
    assert np.issubdtype(pooled.dtype, np.integer)
    assert pooled.tolist() == [[[[-5, -2], [-7, -9]]]]


def test_global_average_pooling_equals_pytorch_at_any_size(random):
    for size in [(1, 1), (3, 8), (7, 7)]:
        images = random.normal(size=(2, 3, *size))
        expected = F.adaptive_avg_pool2d(torch.from_numpy(images), 1).flatten(1).numpy()
        np.testing.assert_allclose(global_average_pool(images), expected, rtol=1e-12)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_pooling_errors(pool):
    with pytest.raises(SettingsError, match="padding 2 for a pooling kernel of 3: use at most 1"):
        pool(np.zeros((1, 1, 8, 8)), (3, 3), padding=(1, 2))
    with pytest.raises(ShapeError, match="kernel of 4 does not fit an input of 3"):
        pool(np.zeros((1, 1, 8, 3)), 4)
    with pytest.raises(ShapeError, match=r"images of shape \(8, 8\): expected \(N, C, H, W\)"):
        pool(np.zeros((8, 8)), 2)


def test_global_pooling_needs_a_batch():
    with pytest.raises(ShapeError, match=r"expected \(N, C, H, W\)"):
        global_average_pool(np.zeros((3, 8, 8)))
