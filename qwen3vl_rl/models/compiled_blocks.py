"""torch.compile for the blocks of the vision tower and of the language model: fewer kernels, equal up to rounding."""

from collections.abc import Iterable

import torch


def compile_blocks(blocks: Iterable[torch.nn.Module]) -> None:
    """Compile every block. All blocks of a kind share one graph, which is dynamic in the sequence length."""
    # Set for the whole process: otherwise every epsilon is a graph input, which each call converts to a tensor.
    torch._dynamo.config.specialize_float = True
    options = {"size_asserts": False}  # the graph computes all sizes itself
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True, options=options)


def restore_blocks(blocks: Iterable[torch.nn.Module]) -> None:
    """Undo `compile_blocks`. Generation, which passes a cache, would otherwise recompile every block."""
    for block in blocks:
        vars(block).pop("forward", None)
