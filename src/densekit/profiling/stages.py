"""Stages: a network cut where the size of its feature maps changes, so that unlike networks can be compared.

A part of a network belongs to the stage of the size that it puts out: DenseNet-121's second dense block and
ResNet-50's layer2 are both "28x28".
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from densekit.engine.fused_block import FusedStem
from densekit.engine.parts import stem_names

HEAD = "head"
"""The stage of what puts out no feature map: the classifier."""
UPDATE = "update"
"""Loss and optimizer, which belong to no part of the network."""

Direction = Literal["forward", "backward"]
Note = Callable[[str, Direction, nn.Module], None]


def parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that stages are made of: children, and in the place of a plain Sequential its children.

    What a fused stem computes together belongs to what follows it.
    """
    together = stem_names(network) if isinstance(network, FusedStem) else []
    for name, child in network.named_children():
        if type(child) is nn.Sequential or isinstance(child, FusedStem):
            yield from parts(child)
        elif name not in together:
            yield child


@contextmanager
def marked(network: nn.Module, note: Note) -> Iterator[None]:
    """Call ``note(stage, direction, part)`` while the network works.

    "forward" is noted when a part has put out its features, "backward" when their gradient is there, which is when
    the backward pass of that part begins.
    """

    def after(module: nn.Module, args: Any, out: Any) -> None:
        features = next((leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), None)
        if features is None:
            return
        stage = "x".join(map(str, features.shape[2:])) if features.dim() == 4 else HEAD
        note(stage, "forward", module)
        if features.requires_grad:
            features.register_hook(lambda gradient: note(stage, "backward", module))

    # on the parts themselves and not on what is in them: a fused block runs only while nothing looks inside
    handles = [part.register_forward_hook(after) for part in parts(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def share_out(marks: list[tuple[str, Direction | None, float]]) -> dict[str, float]:
    """Give what passed between each two marks to a stage.

    Args:
        marks: stage, direction and reading (a time, a count) in the order they were noted; a mark of `UPDATE`, which
            has no direction, stands at the beginning, before the optimizer's turn and at the end.

    Returns:
        The sum for each stage. What ends a forward part, and what follows the mark of a backward part, is its own;
        the rest is `UPDATE`'s.

    >>> share_out([("update", None, 0), ("8x8", "forward", 2), ("8x8", "backward", 3), ("update", None, 7)])
    {'8x8': 6, 'update': 1}
    """
    sums: dict[str, float] = {}
    for (before, way, start), (after, next_way, end) in pairwise(marks):
        stage = after if next_way == "forward" else before if way == "backward" else UPDATE
        sums[stage] = sums.get(stage, 0) + end - start
    return sums
