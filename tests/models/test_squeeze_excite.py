import pytest
import torch
import torchvision

from densekit.errors import SettingsError
from densekit.models.squeeze_excite import SqueezeExcite


@pytest.mark.parametrize(
    ("channels", "reduction", "size"),
    [
        pytest.param(32, 16, (5, 7), id="usual"),
        pytest.param(33, 4, (1, 1), id="odd_channels_one_pixel"),
        pytest.param(3, 16, (4, 4), id="fewer_channels_than_reduction"),
        pytest.param(8, 2, (9,), id="signal"),
        pytest.param(8, 2, (2, 3, 4), id="volume"),
    ],
)
def test_equals_torchvision(channels: int, reduction: int, size: tuple[int, ...]):
    torch.manual_seed(0)
    ours = SqueezeExcite(channels, reduction).double()
    theirs = torchvision.ops.SqueezeExcitation(channels, max(1, channels // reduction)).double()
    theirs.load_state_dict({k: v.reshape(theirs.state_dict()[k].shape) for k, v in ours.state_dict().items()})
    x = torch.randn(4, channels, *size, dtype=torch.float64)
    as_picture = x.reshape(4, channels, -1, 1)  # torchvision's takes pictures only
    torch.testing.assert_close(ours(x), theirs(as_picture).reshape(x.shape), atol=1e-12, rtol=1e-12)


def test_each_sample_is_scaled_by_its_own_weights():
    """Scaling the whole batch with sample 0's weights is a mistake seen in teaching code."""
    layer = SqueezeExcite(8, 2).double()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    alone = torch.cat([layer(sample[None]) for sample in x])
    torch.testing.assert_close(layer(x), alone, atol=1e-12, rtol=1e-12)
    ratios = (layer(x) / x)[:, :, 0, 0]
    assert (ratios[0] - ratios[1]).abs().max() > 1e-4


def test_reduction_must_be_positive():
    with pytest.raises(SettingsError, match="reduction is 0"):
        SqueezeExcite(8, 0)
