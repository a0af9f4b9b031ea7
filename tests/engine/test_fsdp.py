"""The engine's own arithmetic. What it trains is tested on saved weights, in tests/test_pipeline.py."""

import torch
from transformers import Qwen3VLForConditionalGeneration

from examples.starter.build import build_config, build_tokenizer
from qwen3vl_rl.engine.fsdp import Qwen3VLEngine, count_parameters, hold_as_used


def test_the_log_says_what_trains():
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(build_config(build_tokenizer(), {}))
    for name, parameter in model.model.visual.named_parameters():
        parameter.requires_grad_("merger" in name)
    vision, mergers, language = (part.split() for part in count_parameters(model).split(": ")[1].split(", "))
    assert vision[:2] == ["vision", "encoder"]
    assert vision[2] == "0.0M"
    assert mergers[1] == mergers[3]
    assert language[2] == language[4]
    total = sum(float(part[-1].removesuffix("M")) for part in (vision, mergers, language))
    assert abs(total - sum(p.numel() for p in model.parameters()) / 1e6) < 0.2


def test_logits_are_kept_where_the_next_token_carries_loss():
    engine = object.__new__(Qwen3VLEngine)
    engine.use_ulysses_sp = False
    masks = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1])]
    batch = {"loss_mask": torch.nested.as_nested_tensor(masks, layout=torch.jagged)}
    assert engine._positions_before_loss(batch | {"input_ids": batch["loss_mask"]}).tolist() == [1, 2, 4, 8]


def test_answers_masks_stand_at_the_end_of_their_samples():
    engine = object.__new__(Qwen3VLEngine)
    engine.use_ulysses_sp = False
    ids, masks = [torch.arange(5), torch.arange(3)], [torch.tensor([1, 0, 1]), torch.tensor([1])]
    ids, masks = (torch.nested.as_nested_tensor(x, layout=torch.jagged) for x in (ids, masks))
    assert engine._positions_before_loss({"input_ids": ids, "loss_mask": masks}).tolist() == [1, 3, 6]


def test_frozen_weights_are_held_in_16_bits_where_that_loses_nothing():
    parts = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("exact", "rounded", "trained")})
    parts["norm"] = torch.nn.LayerNorm(2)
    for name, parameter in parts.named_parameters():
        parameter.requires_grad_("trained" in name)
        torch.nn.init.constant_(parameter, 0.1 if "rounded" in name else 0.5)
    before = {name: parameter.clone() for name, parameter in parts.named_parameters()}
    hold_as_used(parts, torch.bfloat16)
    held = {name for name, parameter in parts.named_parameters() if parameter.dtype == torch.bfloat16}
    assert held == {"exact.weight", "exact.bias"}
    assert all(torch.equal(parameter.float(), before[name]) for name, parameter in parts.named_parameters())
