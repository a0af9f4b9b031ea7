"""Which parameters train, and the precision of the others."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from examples.starter.build import build_config, build_tokenizer
from qwen3vl_rl.models.families.qwen3_vl import parts
from qwen3vl_rl.models.parameters import (
    count_parameters,
    freeze_deepstack_mergers,
    freeze_vision_encoder,
    hold_as_used,
)


def test_the_log_line_counts_trained_parameters():
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(build_config(build_tokenizer(), {}))
    freeze_vision_encoder(model, parts)
    vision, mergers, language = (part.split() for part in count_parameters(model, parts).split(": ")[1].split(", "))
    assert vision[:2] == ["vision", "encoder"]
    assert vision[2] == "0.0M"
    assert mergers[1] == mergers[3]
    assert language[2] == language[4]
    total = sum(float(part[-1].removesuffix("M")) for part in (vision, mergers, language))
    assert abs(total - sum(p.numel() for p in model.parameters()) / 1e6) < 0.2


def test_the_main_merger_may_train_alone():
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(build_config(build_tokenizer(), {}))
    freeze_vision_encoder(model, parts)
    freeze_deepstack_mergers(model, parts)
    trained = {name for name, parameter in model.model.visual.named_parameters() if parameter.requires_grad}
    assert trained == {f"merger.{name}" for name, _ in model.model.visual.merger.named_parameters()}
    assert len(model.model.visual.deepstack_merger_list)


def test_a_model_with_one_merger_has_none_to_freeze():
    one = SimpleNamespace(mergers=lambda model: [model])
    with pytest.raises(ValueError, match="expected a model with several mergers"):
        freeze_deepstack_mergers(torch.nn.Linear(1, 1), one)


def test_frozen_weights_are_converted_to_16_bits_if_that_is_exact():
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
