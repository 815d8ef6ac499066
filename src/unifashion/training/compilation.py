"""torch.compile for training: the repeated blocks, rather than the whole network.

A Q-Former runs four kinds of passes over texts of any length. Compiled as a whole, each kind and length would be a program of its
own, of twelve layers. Attention and feed-forward, where the time goes between the matrix products, are compiled with dynamic
sizes and serve all passes.
"""

import torch
from torch import nn

from unifashion.models.qformer import Attention, FeedForward
from unifashion.models.unifashion import UniFashionModel

VARIANTS = 64  # programs per block: a few for each kind of mask, in training and validation


def compile_blocks(model: UniFashionModel) -> None:
    """Compile the tower's repeated blocks and the Q-Former's attention and feed-forward, when they first run."""
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for layers in model.vision.modules():
        if isinstance(layers, nn.ModuleList):
            for block in layers:
                block.compile()
    for module in model.qformer.modules():
        if isinstance(module, Attention | FeedForward):
            # Texts have any length; a program for each would compile for longer than it trains.
            module.compile(dynamic=True)
