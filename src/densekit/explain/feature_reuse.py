"""Which earlier features the layers of a DenseNet use (figure 5 of the paper, for any trained one)."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from densekit.classifier import Classifier
from densekit.engine.fused_block import FusedDenseBlock
from densekit.engine.parts import BLOCKS, qualified_name
from densekit.errors import SettingsError
from densekit.files import save_figure, write_text

_Reader = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True, eq=False)
class BlockReuse:
    """How much each layer of a dense block weighs the features it reads.

    Args:
        name: of the block in the network, e.g. "features.denseblock1".
        sources: what made the features: "input" of the block, then its layers "1", "2", ...
        readers: what reads them: the layers "1", "2", ..., then what follows the block, "transition" or "classifier".
        weights: (sources, readers), mean absolute weight; NaN where the source is not there yet.
    """

    name: str
    sources: tuple[str, ...]
    readers: tuple[str, ...]
    weights: Tensor


def feature_reuse(network: nn.Module | Classifier) -> list[BlockReuse]:
    """Return for every dense block the mean absolute weight of each reader on each source's features.

    The weights are those of the first convolution of a layer, with a bottleneck or without; those of the 1x1
    convolution of a transition; and those of the linear layer behind the last block.

    Args:
        network: a DenseNet of densekit, torchvision, timm or MONAI, fused or not, or a classifier with one.

    Raises:
        SettingsError: there is no dense block in it.

    Source: Huang et al., Densely Connected Convolutional Networks, 2017, section 5 and figure 5.
    """
    if isinstance(network, Classifier):
        network = network.network
    reuses = [_block_reuse(name, list(block.children()), reader) for name, block, reader in _blocks(network)]
    if not reuses:
        raise SettingsError(
            f"feature reuse is about DenseNets: there is no dense block in this {type(network).__name__}"
        )
    return reuses


def _blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module, _Reader]]:
    """Yield each dense block with its name and with what reads all of its features."""
    found: tuple[str, nn.Module] | None = None
    inside: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, FusedDenseBlock) or qualified_name(module) in BLOCKS:
            found, inside = (name, module), set(module.modules())
        elif found and isinstance(module, _Reader) and module not in inside:
            yield *found, module
            found = None


def _block_reuse(name: str, layers: list[nn.Module], after: _Reader) -> BlockReuse:
    readers = [next(module for module in layer.modules() if isinstance(module, _Reader)) for layer in layers]
    readers.append(after)
    # each reader sees what the one before it saw, and one source more
    widths = [_channels(reader) for reader in readers]
    sizes = [widths[0], *(wide - narrow for narrow, wide in pairwise(widths))]
    weights = torch.full((len(sizes), len(readers)), torch.nan)
    for column, reader in enumerate(readers):
        parts = _mean_weights(reader).split(sizes[: column + 1])
        weights[: column + 1, column] = torch.stack([part.mean() for part in parts])
    numbers = tuple(str(number) for number in range(1, len(layers) + 1))
    last = "classifier" if isinstance(after, nn.Linear) else "transition"
    return BlockReuse(name, ("input", *numbers), (*numbers, last), weights)


def _channels(reader: _Reader) -> int:
    return reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels


def _mean_weights(reader: _Reader) -> Tensor:
    """The mean absolute weight on each channel that a layer reads, float32 (C,)."""
    groups = 1 if isinstance(reader, nn.Linear) else reader.groups
    weight = reader.weight.detach().cpu().float().abs()  # (out, C / groups, *kernel)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).mean((1, 3)).flatten()


def write_feature_reuse(folder: Path, blocks: list[BlockReuse]) -> None:
    """Write feature-reuse.png and feature-reuse.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["block", "source", "reader", "mean_absolute_weight"])
    for block in blocks:
        for source, row in zip(block.sources, block.weights.tolist(), strict=True):
            cells = zip(block.readers, row, strict=True)
            writer.writerows([block.name, source, reader, f"{value:.6g}"] for reader, value in cells if value == value)
    write_text(folder / "feature-reuse.csv", text.getvalue())
    draw_feature_reuse(folder / "feature-reuse.png", blocks)


def draw_feature_reuse(path: Path, blocks: list[BlockReuse]) -> None:
    """Draw a heat map for each block: who reads from left to right, whose features from top to bottom."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = (len(blocks) + 1) // 2
    figure = Figure(figsize=(9, 4.6 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, block in zip(grid, blocks, strict=False):
        shares = (block.weights / block.weights.nan_to_num().amax(0)).numpy()
        axes.imshow(shares, vmin=0, vmax=1, cmap="inferno")
        axes.set_xticks(*_ticks(block.readers))
        axes.get_xticklabels()[-1].set(rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(*_ticks(block.sources))
        axes.set(title=block.name, xlabel="layer that reads", ylabel="layer whose features are read")
    for axes in grid[len(blocks) :]:
        axes.remove()
    label = "mean absolute weight, as a share of the reading layer's largest"
    scale = ScalarMappable(cmap="inferno")  # from 0 to 1
    figure.colorbar(scale, ax=list(grid[: len(blocks)]), label=label, location="bottom", aspect=50)
    save_figure(figure, path)


def _ticks(names: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Return places and names of at most a dozen ticks, with the last one."""
    step = len(names) // 12 + 1
    last = len(names) - 1
    places = [*range(0, last - step // 2, step), last]
    return places, [names[place] for place in places]
