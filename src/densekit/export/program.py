"""From a classifier to an exported program, the form from which files for the runtimes are made."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.optimization import fuse as fold_batch_norms

from densekit.classifier import Classifier
from densekit.engine.swap import unfuse
from densekit.export.bake import FromBytes
from densekit.export.targets import Options


def make_program(classifier: Classifier, options: Options) -> ExportedProgram:
    """Export a classifier's network for batches of any length.

    Returns:
        A program ``pictures -> logits`` in float32: pictures float32 (N, C, H, W), preprocessed, of the classifier's
        own size; with ``bake_preprocessing`` uint8 (N, H, W, C) of any size.
    """
    network = grow_concatenations(inference_network(classifier.network))
    channels, (height, width) = classifier.preprocessing.channels, classifier.preprocessing.size
    dimensions = {0: Dim("batch")}
    pictures = torch.zeros(2, channels, height, width)  # 2, because a batch of 1 would stay 1
    if options.bake_preprocessing:
        network = FromBytes(network, classifier.preprocessing)
        dimensions |= {1: Dim("height"), 2: Dim("width")}
        pictures = torch.zeros(2, height + 1, width + 2, channels, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(network, (pictures,), dynamic_shapes=(dimensions,))


def inference_network(network: nn.Module) -> GraphModule:
    """Return a float32 copy with the stock modules, its batch norms folded into the convolutions before them.

    In a DenseNet these are the stem's and the one between the two convolutions of a layer. The others stand before
    their convolution with a ReLU between and stay. Folded in float64, so that only the result is rounded.
    """
    copied = unfuse(deepcopy(getattr(network, "_orig_mod", network)))  # torch.compile's wrapper
    folded = fold_batch_norms(copied.cpu().double().eval().requires_grad_(False)).float()
    assert isinstance(folded, GraphModule)
    return folded


def grow_concatenations(network: GraphModule) -> GraphModule:
    """Let a concatenation that begins with all pieces of an earlier one take its result for them.

    A dense layer concatenates all features so far: those that the layer before it read, and the new ones. Two long
    pieces are copied faster than many short ones, and no bit changes.

    Args:
        network: a traced network, whose graph is changed.

    Returns:
        ``network``.
    """
    made: dict[tuple[Any, ...], Node] = {}  # pieces, and along what -> their concatenation
    for node in network.graph.find_nodes(op="call_function", target=torch.cat):
        pieces, along = tuple(node.args[0]), (node.args[1:], *node.kwargs.items())
        for count in range(len(pieces) - 1, 1, -1):
            if earlier := made.get((pieces[:count], along)):
                node.update_arg(0, [earlier, *pieces[count:]])
                break
        made[pieces, along] = node
    network.recompile()
    return network
