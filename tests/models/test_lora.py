"""LoRA adapters: their number of parameters, and that merging them gives the same as peft's own merge."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qwen3vl_rl.models.families import read_shape
from qwen3vl_rl.models.lora import fold_adapters, require_text_gradients

ROOT = Path(__file__).parents[2]


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
    (tmp_path / "config.json").write_text("{}")
    fold_adapters(tmp_path, tmp_path / "meta.json")
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    folded, merged = load_file(tmp_path / "model.safetensors"), model.merge_and_unload().state_dict()
    assert folded.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(folded[name], weight)


def test_the_parameters_of_our_recipes_adapters_are_counted():
    starter = ROOT / "examples" / "starter" / "checkpoint"
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(starter))
    for file in ("sft/config/tuning/lora.yaml", "qwen3vl_rl/config/tuning/lora.yaml"):
        config = OmegaConf.load(ROOT / file)
        ours = config.get("actor_rollout_ref", config).model
        lora = LoraConfig(r=4, target_modules=ours.target_modules, exclude_modules=ours.exclude_modules)
        adapted = get_peft_model(model, lora)
        assert adapted.get_nb_trainable_parameters()[0] == read_shape(starter).adapter_parameters(rank=4)
        model = adapted.unload()


def test_a_model_that_is_exact_in_16_bits_is_saved_in_16_bits(tmp_path):
    base = torch.randn(4, 6).bfloat16().float()
    adapter = {"m.base_layer.weight": base, "m.lora_A.weight": torch.randn(2, 6), "m.lora_B.weight": torch.randn(4, 2)}
    save_file(adapter | {"lm_head.weight": base.clone()}, tmp_path / "model.safetensors")
    (tmp_path / "meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    fold_adapters(tmp_path, tmp_path / "meta.json")
    [(name, weight)] = load_file(tmp_path / "model.safetensors").items()
    expected = base + 2 * adapter["m.lora_B.weight"] @ adapter["m.lora_A.weight"]
    assert name == "m.weight" and torch.equal(weight, expected.bfloat16())


@pytest.mark.slow
def test_adapters_train_without_a_backward_pass_through_the_vision_tower(internvl):
    model = AutoModelForImageTextToText.from_pretrained(internvl)
    model.enable_input_require_grads()  # as verl does
    lora = LoraConfig(r=2, target_modules="all-linear", exclude_modules=".*vision_tower.*", init_lora_weights=False)
    adapted = get_peft_model(model, lora)
    seen = []
    model.model.vision_tower.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    inputs = {"input_ids": torch.full((1, 20), 5), "pixel_values": torch.randn(1, 3, 112, 112)}
    inputs["input_ids"][0, :16] = model.config.image_token_id

    def needs_gradients() -> bool:
        adapted(**inputs).logits.sum().backward()
        return seen.pop().requires_grad

    assert needs_gradients()  # why ours is needed
    require_text_gradients(model)
    adapted.zero_grad()
    assert not needs_gradients()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in adapted.named_parameters() if "lora_B" in n)
