"""From a classifier to an exported program, the form from which files for the runtimes are made."""

from copy import deepcopy

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse as fold_batch_norms

from densekit.classifier import Classifier
from densekit.engine.swap import unfuse
from densekit.export.bake import FromBytes
from densekit.export.concatenations import convolve_in_groups, grow_concatenations
from densekit.export.targets import Options


def make_program(classifier: Classifier, options: Options, *, in_groups: bool = False) -> ExportedProgram:
    """Export a classifier's network for batches of any length.

    Args:
        classifier: what is exported.
        options: how.
        in_groups: dense layers sum convolutions of groups of the features so far, see `convolve_in_groups`.

    Returns:
        A program ``pictures -> logits`` in float32: pictures float32 (N, C, H, W), preprocessed, of the classifier's
        own size; with ``bake_preprocessing`` uint8 (N, H, W, C) of any size.
    """
    network = inference_network(classifier.network)
    channels, (height, width) = classifier.preprocessing.channels, classifier.preprocessing.size
    dimensions = {0: Dim("batch")}
    pictures = torch.zeros(2, channels, height, width)  # 2, because a batch of 1 would stay 1
    if in_groups:
        network = convolve_in_groups(network, pictures)
    network = grow_concatenations(network)
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
