"""The concatenations of a DenseNet, written so that runtimes copy less: the same network, the same weights."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

from densekit.models.dense_block import ACTIVATIONS


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
        if same := made.get((pieces, along)):
            node.replace_all_uses_with(same)
            network.graph.erase_node(node)
            continue
        for count in range(len(pieces) - 1, 1, -1):
            if earlier := made.get((pieces[:count], along)):
                node.update_arg(0, [earlier, *pieces[count:]])
                break
        made[pieces, along] = node
    network.recompile()
    return network


def convolve_in_groups(network: GraphModule, pictures: Tensor, width: int = 128) -> GraphModule:
    """Let a dense layer convolve the features so far in groups, and sum the results.

    Norm and activation are elementwise and a convolution is linear, so ``conv(relu(norm(cat(a, b))))`` is
    ``conv_a(relu(norm_a(a))) + conv_b(relu(norm_b(b)))``, with the channels' weights divided among the two. A full
    group is concatenated once, and not again for every later layer. It pays where a runtime adds to a sum while it
    convolves, as ONNX Runtime does.

    Args:
        network: a traced network in evaluation mode, whose graph is changed.
        pictures: (N, C, H, W) that it takes; they tell how many channels each piece has.
        width: channels with which a group is full.

    Returns:
        ``network``.
    """
    ShapeProp(network).propagate(pictures)
    graph = network.graph
    for whole in graph.find_nodes(op="call_function", target=torch.cat):
        if (whole.args[1:], whole.kwargs) not in (((1,), {}), ((), {"dim": 1})):
            continue
        groups = list(_groups(whole.args[0], width))
        with graph.inserting_before(whole):
            parts = [graph.call_function(torch.cat, (group, 1)) if len(group) > 1 else group[0] for group in groups]
        readers = _readers(whole, network)
        if readers and len(groups) > 1:
            _sum_convolutions(network, parts, [_channels(group) for group in groups], readers)
            for node in reversed((whole, *readers)):
                graph.erase_node(node)
        else:
            whole.update_arg(0, parts)
    network.recompile()
    return network


def _groups(pieces: Sequence[Node], width: int) -> Iterator[list[Node]]:
    group: list[Node] = []
    for piece in pieces:
        group.append(piece)
        if _channels(group) >= width:
            yield group
            group = []
    if group:
        yield group


def _channels(pieces: Sequence[Node]) -> int:
    return sum(piece.meta["tensor_meta"].shape[1] for piece in pieces)


def _readers(whole: Node, network: GraphModule) -> tuple[Node, Node, Node] | None:
    """Return norm, activation and convolution where these, one after the other, are all that reads a node."""
    chain = [whole]
    for kind in (nn.BatchNorm2d, tuple(ACTIVATIONS.values()), nn.Conv2d):
        users = list(chain[-1].users)
        if len(users) != 1 or users[0].op != "call_module" or not isinstance(_module(users[0], network), kind):
            return None
        chain.append(users[0])
    _, norm, activation, convolution = chain
    elementwise = all(parameter.numel() == 1 for parameter in _module(activation, network).parameters())
    return (norm, activation, convolution) if elementwise and _module(convolution, network).groups == 1 else None


def _module(node: Node, network: GraphModule) -> Any:
    return network.get_submodule(str(node.target))


def _sum_convolutions(
    network: GraphModule, parts: Sequence[Node], widths: Sequence[int], readers: tuple[Node, Node, Node]
) -> None:
    """Compute from the parts of a concatenation what its readers compute from the whole."""
    norm, activation, convolution = readers
    graph, total, begin = network.graph, None, 0
    for number, (part, width) in enumerate(zip(parts, widths, strict=True)):
        channels = slice(begin, begin := begin + width)
        names = [f"{reader.target}_{number}" for reader in (norm, convolution)]
        network.add_submodule(names[0], _norm_of(_module(norm, network), channels))
        network.add_submodule(names[1], _convolution_of(_module(convolution, network), channels))
        with graph.inserting_before(convolution):
            read = graph.call_module(str(activation.target), (graph.call_module(names[0], (part,)),))
            term = graph.call_module(names[1], (read,))
            total = graph.call_function(torch.add, (total, term)) if total else term
    assert total is not None  # there are parts
    convolution.replace_all_uses_with(total)


def _norm_of(norm: nn.BatchNorm2d, channels: slice) -> nn.BatchNorm2d:
    piece = deepcopy(norm)
    piece.num_features = channels.stop - channels.start
    for tensor in (*piece.parameters(), *piece.buffers()):
        if tensor.ndim > 0:  # all but the counter of batches
            tensor.data = tensor.data[channels]
    return piece


def _convolution_of(convolution: nn.Conv2d, channels: slice) -> nn.Conv2d:
    piece = deepcopy(convolution)
    piece.in_channels = channels.stop - channels.start
    piece.weight.data = piece.weight.data[:, channels]
    if channels.start > 0:  # the bias is added once
        piece.bias = None
    return piece
