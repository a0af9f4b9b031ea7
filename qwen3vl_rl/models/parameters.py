"""The parameters of a Qwen3-VL model: which of them train, and in which precision the others are held."""

import torch


def freeze_vision_encoder(model: torch.nn.Module) -> None:
    """Freeze the vision encoder; its mergers (`merger`, `deepstack_merger_list`) and the language model train."""
    for name, parameter in model.model.visual.named_parameters():
        parameter.requires_grad_("merger" in name)


def freeze_deepstack_mergers(model: torch.nn.Module) -> None:
    """Freeze the mergers whose features join the first layers of the language model, and leave the main one."""
    model.model.visual.deepstack_merger_list.requires_grad_(False)


def hold_as_used(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Hold frozen weights of linear layers and convolutions in `dtype`, where that loses nothing: autocast would cast
    them in every forward pass."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv3d):
            for weight in part.parameters(recurse=False):
                low = weight.detach().to(dtype)
                if not weight.requires_grad and torch.equal(low.to(weight.dtype), weight):
                    weight.data = low


def count_parameters(module: torch.nn.Module) -> str:
    """One line on what trains and what does not, in millions of parameters."""
    counts = {name: [0, 0] for name in ("vision encoder", "mergers", "language model")}
    for name, parameter in module.named_parameters():
        part = "language model" if ".visual." not in name else "mergers" if "merger" in name else "vision encoder"
        counts[part][parameter.requires_grad] += parameter.numel()
    parts = [
        f"{part} {trained / 1e6:.1f}M of {(trained + frozen) / 1e6:.1f}M" for part, (frozen, trained) in counts.items()
    ]
    return f"parameters trained: {', '.join(parts)}"
