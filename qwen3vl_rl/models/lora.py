"""LoRA adapters folded into the weights that they adapt, so that transformers, vLLM and sglang load a plain model."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

META = "lora_train_meta.json"  # beside verl's shards of a run with adapters: `r` and `lora_alpha`
_PREFIX = "base_model.model."  # that peft puts before every name


def fold_adapters(folder: Path, meta: Path) -> None:
    """Rewrite the safetensors of `folder`, which verl saved of a peft model, as a plain model: W + alpha / r * B A."""
    files = sorted(folder.glob("*.safetensors"))
    saved = {name.removeprefix(_PREFIX): tensor for file in files for name, tensor in load_file(file).items()}
    scale = (numbers := json.loads(meta.read_text()))["lora_alpha"] / numbers["r"]
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in saved.items() if ".lora_" not in name}
    for name, down in saved.items():
        if ".lora_A." in name:
            up = saved[name.replace(".lora_A.", ".lora_B.")]
            adapted = name.partition(".lora_A.")[0] + ".weight"
            change = scale * up.float() @ down.float()
            weights[adapted] = (weights[adapted].float() + change).to(weights[adapted].dtype)
    for file in (*files, *folder.glob("*.safetensors.index.json")):
        file.unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
