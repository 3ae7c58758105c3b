"""Convolution by hand: from one window of pixels to image filters and batch norm, in NumPy.

Run it with `python docs/tutorials/convolution_by_hand.py [filters.png]`; it needs no download.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_image

from densekit.reference.convolution import convolve, convolve_channel, convolve_channels, output_size
from densekit.reference.filters import GAUSSIAN_3, GAUSSIAN_5, LAPLACIAN, apply_filter, side_by_side
from densekit.reference.normalisation import batch_moments, normalise
from densekit.reference.parameter_counts import (
    batch_norm_parameters,
    convolution_parameters,
    linear_parameters,
)
from densekit.reference.pooling import average_pool, global_average_pool, max_pool

# 1. One channel
#
# A convolution slides a small kernel over a picture. At every place it multiplies the pixels it covers with
# its own numbers and adds the products up. This kernel adds a pixel to its lower right neighbour:

image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
diagonal = np.array([[1, 0], [0, 1]])
print("1. One channel:", convolve_channel(image, diagonal).tolist())  # 1+5, 2+6; 4+8, 5+9

# A 2x2 kernel fits a 3x3 picture in only 2x2 places. Padding puts zeros around the picture and makes room for
# more; stride is the step from one place to the next. Along each axis the output has (H + 2p - k) // s + 1
# pixels. The first layer of DenseNet-121, for example, has a 7x7 kernel, padding 3 and stride 2:

print("   224 pixels become", output_size(224, kernel=7, padding=3, stride=2))

# 2. Several channels
#
# A colour picture has three channels, and layers within a network have hundreds. Each output channel has one
# kernel for each input channel and adds their results. Here are two input channels and one output channel;
# the first kernel sums a plus of five pixels, the second is the Laplacian that we meet again below.

two_channels = np.array(
    [
        [
            [0, 0, 2, 2, 0, 1],
            [0, 2, 2, 0, 0, 2],
            [1, 1, 0, 2, 0, 0],
            [2, 2, 1, 1, 0, 0],
            [2, 0, 1, 2, 0, 1],
            [2, 0, 2, 1, 0, 1],
        ],
        [
            [2, 0, 2, 1, 1, 1],
            [0, 1, 0, 0, 2, 2],
            [1, 0, 0, 2, 1, 0],
            [1, 1, 1, 1, 1, 1],
            [1, 0, 1, 1, 1, 2],
            [2, 1, 2, 1, 0, 2],
        ],
    ]
)
plus = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
kernels = np.array([[plus, LAPLACIAN]])  # (C_out, C_in, k, k) = (1, 2, 3, 3)
print("2. Two channels, padding 3, stride 3:")
print(convolve_channels(two_channels, kernels, padding=3, stride=3)[0])

# 3. The general convolution
#
# Networks work on batches of pictures, and nothing forces height and width to be treated alike: kernel,
# padding and stride may differ per axis.

image = np.array([[1, 1, 2, 1], [0, 1, 0, 2], [2, 2, 0, 2], [2, 2, 2, 1], [2, 3, 2, 3]])
kernel = np.array([[1, 0], [0, 1], [0, 0]])
batch = image[None, None]  # (N, C, H, W) = (1, 1, 5, 4)
print("3. A 3x2 kernel, padding (2, 1), stride (1, 2):")
print(convolve(batch, kernel[None, None], padding=(2, 1), stride=(1, 2))[0, 0])

# This is exactly what PyTorch computes:

random = np.random.default_rng(0)
pictures = random.normal(size=(4, 6, 9, 7))
weights = random.normal(size=(8, 3, 3, 2))
bias = random.normal(size=8)
ours = convolve(pictures, weights, bias, padding=(1, 0), stride=(2, 1), groups=2)
theirs = torch.nn.functional.conv2d(
    *map(torch.from_numpy, (pictures, weights, bias)), padding=(1, 0), stride=(2, 1), groups=2
)
print("   largest difference from PyTorch:", np.abs(ours - theirs.numpy()).max())

# 4. Pooling and parameters
#
# Pooling keeps one number of each window: its maximum or its mean. Global pooling keeps one number of each
# channel, which is why a network that ends in it takes pictures of any size.

print("4. Max pooling:", max_pool(batch, 2)[0, 0].tolist(), "average:", average_pool(batch, 2)[0, 0].tolist())
print("   global average:", global_average_pool(batch).tolist())

# Pooling has nothing to learn. A convolution learns its kernels and one bias for each output channel: a 3x3
# convolution from 1 to 3 channels has 3 * 1 * 3 * 3 + 3 = 30 parameters. Batch norm learns a scale and a
# shift.

print("   parameters: convolution", convolution_parameters(1, 3, kernel=3), end=", ")
print("linear 1024 -> 10", linear_parameters(1024, 10), end=", batch norm of 64 ")
print(batch_norm_parameters(64))

# 5. Batch norm
#
# Batch norm brings every channel to mean 0 and variance 1 over the batch, then multiplies by the learned
# scale and adds the learned shift. The variance is the biased one (divided by the count), and epsilon keeps a
# constant channel from dividing by zero.

mean, variance = batch_moments(pictures)
normalised = normalise(pictures, mean, variance, weight=np.full(6, 2.0), bias=np.full(6, 0.5), eps=1e-5)
print("5. Batch norm with scale 2 and shift 0.5: mean", normalised.mean(axis=(0, 2, 3)).round(3).tolist())
print("   standard deviation", normalised.std(axis=(0, 2, 3)).round(3).tolist())

# 6. Filters
#
# Long before kernels were learned they were designed. A Gaussian takes a weighted mean of neighbours and
# blurs; the Laplacian subtracts the neighbours from a pixel and leaves the edges. A crop shows the effect on
# single pixels.

china = load_sample_image("china.jpg")  # (427, 640, 3), values 0..255
crop = china[150:254, 195:351]
grey = crop.mean(axis=2)
figure = side_by_side(
    {
        "original": crop,
        "Gaussian 3x3": apply_filter(crop, GAUSSIAN_3),
        "Gaussian 5x5": apply_filter(crop, GAUSSIAN_5),
        "Laplacian of grey": apply_filter(grey, LAPLACIAN),
    }
)
path = Path(sys.argv[1] if len(sys.argv) > 1 else "filters.png")
figure.savefig(path, dpi=100)
print("6. Filters: see", path)
