import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densekit.errors import CheckpointError, ShapeError
from densekit.reference.normalisation import batch_moments, batch_norm, normalise

SHAPES = pytest.mark.parametrize(
    "shape",
    [(2, 1, 1, 1), (3, 5, 7, 4), (1, 3, 1, 2), (6, 4), (2, 3, 5), (2, 3, 2, 3, 4)],
    ids=["one_pixel", "odd_channels", "batch_of_one", "features", "sequence", "volume"],
)


def numbers(channels: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "weight": random.normal(size=channels),
        "bias": random.normal(size=channels),
        "running_mean": random.normal(size=channels),
        "running_var": random.uniform(0.5, 2, size=channels),
        "num_batches_tracked": np.array(3),
    }


@SHAPES
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm_equals_pytorch(random, shape, training):
    images, parameters = random.normal(2, 3, size=shape), numbers(shape[1], random)
    theirs = {name: torch.tensor(value) for name, value in parameters.items()}
    expected = F.batch_norm(
        torch.from_numpy(images),
        theirs["running_mean"],
        theirs["running_var"],
        theirs["weight"],
        theirs["bias"],
        training=training,
        momentum=0.3,
        eps=1e-3,
    )
    before = {name: value.copy() for name, value in parameters.items()}
    output, buffers = batch_norm(images, parameters, training=training, momentum=0.3, eps=1e-3)
    np.testing.assert_allclose(output, expected.numpy(), rtol=1e-10, atol=1e-12)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose((parameters | buffers)[name], theirs[name].numpy(), rtol=1e-12)
    np.testing.assert_equal(parameters, before)  # a pure function: what was given is unchanged


@pytest.mark.parametrize("momentum", [0.1, None], ids=["exponential", "cumulative"])
def test_running_statistics_over_several_batches_equal_pytorch(random, momentum):
    module = nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
    parameters = {name: value.clone().numpy() for name, value in module.state_dict().items()}
    for batch in random.normal(1, 2, size=(4, 5, 3, 2, 6)):
        expected = module(torch.from_numpy(batch)).detach().numpy()
        output, buffers = batch_norm(batch, parameters, training=True, momentum=momentum)
        parameters |= buffers
        np.testing.assert_allclose(output, expected, rtol=1e-10, atol=1e-12)
    assert parameters.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        np.testing.assert_allclose(parameters[name], value.numpy(), rtol=1e-12, err_msg=name)


def test_moments_on_paper():
    mean, variance = batch_moments(np.array([[[[1.0, 2.0]], [[0.0, 0.0]]], [[[3.0, 6.0]], [[0.0, 8.0]]]]))
    assert mean.tolist() == [3, 2]
    assert variance.tolist() == [3.5, 12]  # divided by the count of 4, not by 3


def test_a_constant_channel_becomes_the_shift():
    images = np.full((2, 1, 3, 3), 7.0)
    mean, variance = batch_moments(images)
    np.testing.assert_array_equal(normalise(images, mean, variance, np.array([5.0]), np.array([0.25])), 0.25)


def test_errors(random):
    parameters = numbers(3, random)
    with pytest.raises(ShapeError, match=r"input of shape \(2, 4, 5, 5\): this batch norm needs \(N, 3, ...\)"):
        batch_norm(np.zeros((2, 4, 5, 5)), parameters)
    with pytest.raises(ShapeError, match="one value per channel, hence no variance"):
        batch_norm(np.zeros((1, 3, 1, 1)), parameters, training=True)
    del parameters["running_var"]
    with pytest.raises(CheckpointError, match="batch norm has no running_var: it needs weight, bias"):
        batch_norm(np.zeros((2, 3, 5, 5)), parameters)
