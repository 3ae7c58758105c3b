"""Preprocessing as a part of the network, in operations that every runtime computes alike.

Runtimes differ in how they resize, and several leave out the smoothing that shrinking needs. So the resampling is
written as what it is: two matrix products, whose weights follow from the size of the picture.
"""

import torch
from torch import Tensor, nn

from densekit.data.preprocessing import Preprocessing


class FromBytes(nn.Module):
    """A network with its preprocessing before it: uint8 (N, H, W, C) of any size -> logits (N, K).

    Args:
        network: takes float32 (N, C, *preprocessing.size).
        preprocessing: done outside so far.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)).reshape(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        rows, columns = (torch.arange(pictures.shape[axis], device=pictures.device) for axis in (1, 2))
        down, across = self._weights(rows, columns)  # (H', H), (W', W)
        pixels = pictures.permute(0, 3, 1, 2).float()
        # across first, and whole numbers in between: so does Pillow, and torchvision with bytes
        pixels = _as_bytes(_as_bytes(pixels @ across.T).transpose(2, 3) @ down.T).transpose(2, 3)
        return self.network((pixels / 255 - self.mean) / self.std)

    def _weights(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the picture's rows and columns in those of the result."""
        kind, (height, width) = self.preprocessing.interpolation, self.preprocessing.size
        if self.preprocessing.resize == "squash":
            sizes = rows.new_tensor(height), rows.new_tensor(width)
        else:
            tall, wide = self.preprocessing.covered_size
            h, w = rows[-1] + 1, columns[-1] + 1  # tensors, because a maximum of plain sizes cannot be exported
            sizes = (
                (torch.div(h * wide, w, rounding_mode="floor")).clamp(min=tall),
                (torch.div(w * tall, h, rounding_mode="floor")).clamp(min=wide),
            )
        return resampling(rows, sizes[0], height, kind), resampling(columns, sizes[1], width, kind)


def resampling(places: Tensor, size: Tensor, kept: int, kind: str) -> Tensor:
    """Return the weights that resample a line of pixels and cut out its centre.

    Args:
        places: int64 (n,), 0 to n - 1: the line's pixels.
        size: int64 scalar, how many pixels the line is resampled to.
        kept: how many of these are kept, around the centre.
        kind: "bilinear" or "bicubic", smoothed where the line shrinks.

    Returns:
        float32 (kept, n); each row sums to 1.
    """
    spare = size - kept
    half = torch.div(spare, 2, rounding_mode="floor")
    first = half + (spare - 2 * half) * (half - 2 * torch.div(half, 2, rounding_mode="floor"))  # rounds .5 to even
    scale = (places[-1] + 1).float() / size.float()
    centres = (torch.arange(kept, device=places.device) + first + 0.5) * scale
    distances = (places + 0.5 - centres[:, None]).abs() / scale.clamp(min=1.0)
    weights = _bilinear(distances) if kind == "bilinear" else _bicubic(distances)
    return weights / weights.sum(1, keepdim=True)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0.0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, Pillow's and torchvision's for shrinking pictures."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _as_bytes(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0.0, 255.0)
