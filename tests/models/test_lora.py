"""Folding adapters gives what peft's own merge gives."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from qwen3vl_rl.models.lora import fold_adapters


def test_folded_weights_are_those_that_peft_merges(tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4, bias=False))
    model = get_peft_model(plain, LoraConfig(r=2, lora_alpha=5, target_modules=["0"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    state = model.state_dict()
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2])):  # as in a checkpoint of several files
        save_file({name: state[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 5}))
    fold_adapters(tmp_path, tmp_path / "meta.json")
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    folded, merged = load_file(tmp_path / "model.safetensors"), model.merge_and_unload().state_dict()
    assert folded.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(folded[name], weight)
