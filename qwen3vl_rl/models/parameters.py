"""The parameters of a model: which of them train, and the precision of the others."""

from typing import get_args

import torch

from qwen3vl_rl.models.families.interface import Part, Parts


def freeze_vision_encoder(model: torch.nn.Module, parts: Parts) -> None:
    """Freeze the vision encoder; its mergers and the language model train."""
    for name, parameter in model.named_parameters():
        if parts.part_of(name) == "vision encoder":
            parameter.requires_grad_(False)


def freeze_deepstack_mergers(model: torch.nn.Module, parts: Parts) -> None:
    """Freeze the mergers whose features are added to the first language layers, but not the main merger.

    Raises ValueError if the model has only one.
    """
    _, *others = parts.mergers(model)
    if not others:
        raise ValueError("freeze_deepstack_mergers: expected a model with several mergers, found one")
    for merger in others:
        merger.requires_grad_(False)


def hold_as_used(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert frozen weights of linear layers and convolutions to `dtype` if that is exact.

    Autocast would otherwise convert them in every forward pass.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            for weight in part.parameters(recurse=False):
                low = weight.detach().to(dtype)
                if not weight.requires_grad and torch.equal(low.to(weight.dtype), weight):
                    weight.data = low


def count_parameters(module: torch.nn.Module, parts: Parts) -> str:
    """One line with the trained and all parameters of each part, in millions."""
    counts = {part: [0, 0] for part in get_args(Part)}
    for name, parameter in module.named_parameters():
        counts[parts.part_of(name)][parameter.requires_grad] += parameter.numel()
    shares = [
        f"{part} {trained / 1e6:.1f}M of {(trained + frozen) / 1e6:.1f}M" for part, (frozen, trained) in counts.items()
    ]
    return f"parameters trained: {', '.join(shares)}"
