"""torch.compile for the blocks of Qwen3-VL's vision tower and language model: fewer kernels, equal up to rounding."""

import torch


def compile_blocks(model: torch.nn.Module) -> None:
    """Compile every block. All blocks of a kind share one graph, which is dynamic in the sequence length."""
    # Set for the whole process: otherwise every epsilon is a graph input, which each call converts to a tensor.
    torch._dynamo.config.specialize_float = True
    options = {"size_asserts": False}  # the graph computes all sizes itself
    for block in _blocks(model):
        block.forward = torch.compile(block.forward, dynamic=True, options=options)


def restore_blocks(model: torch.nn.Module) -> None:
    """Undo `compile_blocks`. Generation, which passes a cache, would otherwise recompile every block."""
    for block in _blocks(model):
        vars(block).pop("forward", None)


def _blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [*model.model.visual.blocks, *model.model.language_model.layers]
