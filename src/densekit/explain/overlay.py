"""A heat map laid over the picture it explains."""

import numpy as np
from PIL import Image
from torch import Tensor

_OPACITY = 0.55  # of the colours
_PALE = 0.7  # how far what the network did not see fades into white
_BRIGHTEST = 0.99  # share of the values below full colour: one hot pixel must not darken all others
WHOLE = (0.0, 0.0, 1.0, 1.0)


def overlay(picture: Image.Image, heat: Tensor, seen: tuple[float, float, float, float] = WHOLE) -> Image.Image:
    """Lay a heat map over a picture: dark says nothing, yellow speaks most for the class.

    The picture turns grey, so that every colour is the heat's; the colours (inferno) also grow brighter, so that the
    colour-blind and a black-and-white print show the same. What the network did not see is pale, without colour. What
    speaks against the class is dark, as what says nothing.

    Args:
        picture: in any size and mode, e.g. shrunk or enlarged to be shown.
        heat: float (H, W), any range.
        seen: the part of the picture that the heat map covers: left, top, right, bottom as shares of its size; see
            `Preprocessing.seen_part`.

    Returns:
        RGB, the size of ``picture``.
    """
    from matplotlib import colormaps

    grey = picture.convert("L").convert("RGB")
    left, right = (round(share * grey.width) for share in seen[::2])
    top, bottom = (round(share * grey.height) for share in seen[1::2])
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    size = (box[2] - box[0], box[3] - box[1])
    strength = Image.fromarray(_strength(heat)).resize(size, Image.Resampling.BILINEAR)
    colours = Image.fromarray(colormaps["inferno"](np.asarray(strength), bytes=True)[..., :3])
    result = Image.blend(grey, Image.new("RGB", grey.size, "white"), _PALE)
    result.paste(Image.blend(grey.crop(box), colours, _OPACITY), box[:2])
    return result


def _strength(heat: Tensor) -> np.ndarray:
    """A heat map scaled to 0..1, float32 (H, W)."""
    values = heat.detach().cpu().float().clamp(min=0)
    top = float(values.flatten().quantile(_BRIGHTEST)) or float(values.max())
    return (values / (top or 1.0)).clamp(max=1).numpy()
