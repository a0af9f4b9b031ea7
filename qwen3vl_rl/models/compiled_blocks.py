"""Compiled blocks of Qwen3-VL's vision tower and language model: the same numbers up to rounding, fewer kernels."""

import torch


def compile_blocks(model: torch.nn.Module) -> None:
    """torch.compile every block; blocks of a kind share one graph, which lengths of text leave free."""
    # For the whole process, or every epsilon becomes an input, turned to a tensor in each call.
    torch._dynamo.config.specialize_float = True
    options = {"size_asserts": False}  # of each buffer in each call: sizes are the graph's own
    for block in _blocks(model):
        block.forward = torch.compile(block.forward, dynamic=True, options=options)


def restore_blocks(model: torch.nn.Module) -> None:
    """Undo `compile_blocks`: generation would compile every block again for its cache."""
    for block in _blocks(model):
        vars(block).pop("forward", None)


def _blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [*model.model.visual.blocks, *model.model.language_model.layers]
