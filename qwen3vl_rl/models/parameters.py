"""The parameters of a Qwen3-VL model: which of them train, and the precision of the others."""

import torch


def freeze_vision_encoder(model: torch.nn.Module) -> None:
    """Freeze the vision encoder; its mergers (`merger`, `deepstack_merger_list`) and the language model train."""
    for name, parameter in model.model.visual.named_parameters():
        parameter.requires_grad_("merger" in name)


def freeze_deepstack_mergers(model: torch.nn.Module) -> None:
    """Freeze the mergers whose features are added to the first language layers, but not the main merger."""
    model.model.visual.deepstack_merger_list.requires_grad_(False)


def hold_as_used(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert frozen weights of linear layers and convolutions to `dtype` if that is exact.

    Autocast would otherwise convert them in every forward pass.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv3d):
            for weight in part.parameters(recurse=False):
                low = weight.detach().to(dtype)
                if not weight.requires_grad and torch.equal(low.to(weight.dtype), weight):
                    weight.data = low


def count_parameters(module: torch.nn.Module) -> str:
    """One line with the trained and all parameters of each part, in millions."""
    counts = {name: [0, 0] for name in ("vision encoder", "mergers", "language model")}
    for name, parameter in module.named_parameters():
        part = "language model" if ".visual." not in name else "mergers" if "merger" in name else "vision encoder"
        counts[part][parameter.requires_grad] += parameter.numel()
    parts = [
        f"{part} {trained / 1e6:.1f}M of {(trained + frozen) / 1e6:.1f}M" for part, (frozen, trained) in counts.items()
    ]
    return f"parameters trained: {', '.join(parts)}"
