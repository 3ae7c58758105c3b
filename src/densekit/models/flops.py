"""What a network costs in arithmetic, counted without computing anything."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(network: nn.Module, shape: tuple[int, int, int], *, training: bool = False) -> int:
    """Floating-point operations of one picture: two for each multiply-add of a convolution or matrix product.

    Args:
        network: left as it is.
        shape: channels, height and width of the picture.
        training: count the forward and the backward pass, instead of an answer.
    """
    pictures = 2  # batch norm cannot train on one
    network = copy.deepcopy(network).to("meta").train(training)  # shapes only: neither weights nor arithmetic
    with torch.inference_mode(not training), FlopCounterMode(display=False) as counter:
        logits = network(torch.empty(pictures, *shape, device="meta"))
        if training:
            logits.sum().backward()
    return counter.get_total_flops() // pictures
