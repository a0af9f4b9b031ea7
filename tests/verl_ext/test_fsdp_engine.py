"""The engine's own arithmetic. What it trains is tested on saved weights, in tests/test_pipeline.py."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from transformers import Qwen3VLForConditionalGeneration
from verl.utils.tensordict_utils import assign_non_tensor
from verl.utils.torch_functional import entropy_from_logits
from verl.workers.config import FSDPEngineConfig

from examples.starter.build import build_config, build_tokenizer
from qwen3vl_rl.verl_ext import fsdp_engine as fsdp
from qwen3vl_rl.verl_ext.fsdp_engine import Qwen3VLEngine, count_parameters, hold_as_used

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("word", ["unsharded", "alone"])
def test_words_for_one_gpu_are_refused_on_two(monkeypatch, word):
    engine = object.__new__(Qwen3VLEngine)
    engine.model_config = SimpleNamespace(override_config={word: True})
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=f"model.override_config.{word}: expected one GPU"):
        engine._build_module()


@pytest.mark.parametrize(("forward_only", "offload"), [(True, True), (True, False), (False, True)])
def test_an_offloaded_reference_is_left_to_fsdp(monkeypatch, forward_only, offload):
    engine = object.__new__(Qwen3VLEngine)
    engine.rank, engine.model_config = 1, SimpleNamespace(override_config={"unsharded": True})
    engine.engine_config = FSDPEngineConfig(forward_only=forward_only, param_offload=offload)
    monkeypatch.setattr(fsdp, "get_device_name", lambda: "cuda")
    monkeypatch.setattr(Qwen3VLEngine, "_place", lambda self, module: "plain")
    monkeypatch.setattr(fsdp.FSDPEngineWithLMHead, "_build_fsdp_module", lambda self, module: "sharded")
    assert engine._build_fsdp_module(None) == ("sharded" if forward_only and offload else "plain")


def test_logits_are_kept_where_the_next_token_carries_loss():
    engine = object.__new__(Qwen3VLEngine)
    engine.use_ulysses_sp = False
    masks = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1])]
    batch = {"loss_mask": torch.nested.as_nested_tensor(masks, layout=torch.jagged)}
    assert engine._positions_before_loss(batch | {"input_ids": batch["loss_mask"]}, 6).tolist() == [1, 2, 4, 8]


def test_answers_masks_stand_at_the_end_of_their_samples():
    engine = object.__new__(Qwen3VLEngine)
    engine.use_ulysses_sp = False
    ids, masks = [torch.arange(5), torch.arange(3)], [torch.tensor([1, 0, 1]), torch.tensor([1])]
    ids, masks = (torch.nested.as_nested_tensor(x, layout=torch.jagged) for x in (ids, masks))
    assert engine._positions_before_loss({"input_ids": ids, "loss_mask": masks}, 0).tolist() == [1, 3, 6]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_of_answers_are_those_that_verl_takes_from_all_logits(temperature):
    """Log-probabilities and entropies where verl reads them, and gradients; one answer carries no loss at all."""
    draw, lengths, answers = torch.Generator().manual_seed(0), (6, 4, 5), ([1, 0, 1], [0, 0], [1, 1])
    ids = [torch.randint(20, (length,), generator=draw) for length in lengths]
    ids, masks = (torch.nested.as_nested_tensor(x, layout=torch.jagged) for x in (ids, [*map(torch.tensor, answers)]))
    batch = TensorDict({"input_ids": ids, "loss_mask": masks}, batch_size=3)
    assign_non_tensor(batch, calculate_entropy=True)
    output_args = {
        "input_ids_rmpad_rolled": ids.values().roll(-1),
        "temperature_rmpad": torch.full((15,), temperature),
        "temperature_is_one": temperature == 1,
        "pad_size": 0,
    }
    logits = 2 * torch.randn(1, 15, 20, generator=draw)
    results = []
    for ours in (True, False):
        engine = object.__new__(Qwen3VLEngine)
        engine.use_ulysses_sp, engine._loss_tokens_only = False, ours
        engine.engine_config = FSDPEngineConfig()
        engine.compute_entropy_from_logits = entropy_from_logits
        engine._loss_positions = positions = engine._positions_before_loss(batch, 0)
        leaf = logits.clone().requires_grad_()
        output = SimpleNamespace(logits=leaf[:, positions] if ours else leaf * 1)  # verl divides in place
        found = engine.prepare_model_outputs(output, output_args, batch, None)
        log_probs, entropy = (found[name].values()[positions] for name in ("log_probs", "entropy"))
        (log_probs * torch.arange(1, 5) + entropy).sum().backward()
        results.append((log_probs, entropy, leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


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


# Stage 2 as on several GPUs, with weights gathered in 16 bits. Prints the precision in which the first block of the
# vision tower gets the angles of its rotation, in the forward pass and where the backward pass repeats it.
IN_UNITS = """
import sys
from qwen3vl_rl.training import cpu
cpu.activate()
import torch, torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy
from verl.utils.fsdp_utils import apply_fsdp2
from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.plan import compose_recipe
from qwen3vl_rl.models.shapes import PUBLISHED

folder, role, size = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=0, world_size=1)
tied = {"tie_word_embeddings": PUBLISHED[size].tie_word_embeddings}
model = build_model(build_config(build_tokenizer(), tied), seed=0)
model.train()
model.gradient_checkpointing_enable({"use_reentrant": False})
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
config = compose_recipe([f"size={size}"]).actor_rollout_ref[role].fsdp_config
apply_fsdp2(model, {"mp_policy": policy, "reshard_after_forward": True}, config)

def say(_, args, kwargs):
    print(kwargs["position_embeddings"][0].dtype)

model.model.visual.blocks[0].attn.register_forward_pre_hook(say, with_kwargs=True)
ids = torch.tensor([[model.config.image_token_id] * 20 + [7] * 4])
image = {"pixel_values": torch.randn(80, 3 * 2 * 16 * 16), "image_grid_thw": torch.tensor([(1, 8, 10)])}
types = (ids == model.config.image_token_id).long()
model(input_ids=ids, mm_token_type_ids=types, **image).logits.float().square().mean().backward()
dist.destroy_process_group()
"""


@pytest.mark.engine
@pytest.mark.parametrize(("role", "size"), [("actor", "2b"), ("actor", "4b"), ("actor", "8b"), ("ref", "8b")])
def test_angles_of_images_keep_their_precision(role, size, tmp_path):
    command = [sys.executable, "-c", IN_UNITS, str(tmp_path), role, size]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torch.float32", "torch.float32"]
