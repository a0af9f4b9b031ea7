"""LoRA adapters: merged into the weights that they adapt, so that all engines load a plain model, and trained."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

META = "lora_train_meta.json"  # next to verl's shards of a run with adapters; holds `r` and `lora_alpha`
_PREFIX = "base_model.model."  # which peft puts before every parameter name


def folded(
    state: Mapping[str, torch.Tensor], scale: float, whole: Callable[[torch.Tensor], torch.Tensor] = lambda part: part
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and weights of the plain model: W + scale * B A, in the dtype of W.

    state: state dict of a peft model; it is not changed.
    scale: lora_alpha / r.
    whole: gathers the full weight from an entry of `state`, such as a shard.
    """
    downs = {name.partition(".lora_A.")[0]: name for name in state if ".lora_A." in name}
    for name, part in state.items():
        if ".lora_" in name:
            continue
        weight, adapted = whole(part), name.removesuffix(".base_layer.weight")
        if down := downs.get(adapted) if adapted != name else None:
            up = whole(state[down.replace(".lora_A.", ".lora_B.")])
            weight = (weight.float() + scale * up.float() @ whole(state[down]).float()).to(weight.dtype)
        yield name.removeprefix(_PREFIX).replace(".base_layer.", "."), weight


def fold_adapters(folder: Path, meta: Path) -> None:
    """Rewrite the safetensors files in `folder`, which verl saved from a peft model, as a plain model.

    meta: the file `META` of the checkpoint. If the base weights are exact in bfloat16, as Qwen's are, all weights are
    saved in bfloat16 instead of float32.
    """
    files = sorted(folder.glob("*.safetensors"))
    saved = {name: tensor for file in files for name, tensor in load_file(file).items()}
    numbers = json.loads(meta.read_text())
    weights = dict(folded(saved, numbers["lora_alpha"] / numbers["r"]))
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    if all(torch.equal(tensor, tensor.bfloat16()) for name, tensor in saved.items() if ".lora_" not in name):
        weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    for file in (*files, *folder.glob("*.safetensors.index.json")):
        file.unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def require_text_gradients(model: PreTrainedModel) -> None:
    """Make only the embeddings of text need gradients, without which checkpointed blocks would have none.

    `enable_input_require_grads` of transformers, which verl calls, does so for the inputs of all towers, and the
    backward pass then runs through those that are frozen.
    """
    model.disable_input_require_grads()
    model.get_input_embeddings().register_forward_hook(_require_gradients)


def _require_gradients(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
    output.requires_grad_(True)
