"""Our FSDP engine as verl builds it. `test_ranks.py` tests its updates, tests/test_pipeline.py its training runs."""

import subprocess
import sys
from pathlib import Path

import pytest

# Runs in its own process, because importing our engine imports verl's.
MORE_EPOCHS = """
import torch
from qwen3vl_rl.verl_ext.fsdp_engine import set_scheduled_rates
from verl.utils.torch_functional import get_cosine_schedule_with_warmup

def schedule(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    return get_cosine_schedule_with_warmup(optimizer=optimizer, num_warmup_steps=1, num_training_steps=steps)

def advance(scheduler, steps):
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
    return scheduler

short, long = advance(schedule(4), 4), schedule(8)
long.optimizer.load_state_dict(short.optimizer.state_dict())
long.load_state_dict(short.state_dict())
set_scheduled_rates(long)
print(short.optimizer.param_groups[0]["lr"], long.optimizer.param_groups[0]["lr"])
print(advance(schedule(8), 4).optimizer.param_groups[0]["lr"])
"""

ROOT = Path(__file__).parents[2]
# Stage 2 as on several GPUs, with weights gathered in 16 bits. Prints for each role and size the precision of the
# rotary angles that the first block of the vision tower gets in the forward pass and in its recomputation.
IN_UNITS = """
import sys
from qwen3vl_rl.training import cpu
cpu.activate()
import torch, torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy
from verl.utils.fsdp_utils import apply_fsdp2
from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.plan import compose_recipe
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

folder, *cases = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=0, world_size=1)

def say(_, args, kwargs):
    print(kwargs["position_embeddings"][0].dtype)

for role, size in (case.split("-") for case in cases):
    tied = {"tie_word_embeddings": QWEN3_VL.sizes[size].tie_word_embeddings}
    model = build_model(build_config(build_tokenizer(), tied), seed=0)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    config = compose_recipe([f"size={size}"]).actor_rollout_ref[role].fsdp_config
    apply_fsdp2(model, {"mp_policy": policy, "reshard_after_forward": True}, config)
    model.model.visual.blocks[0].attn.register_forward_pre_hook(say, with_kwargs=True)
    ids = torch.tensor([[model.config.image_token_id] * 20 + [7] * 4])
    image = {"pixel_values": torch.randn(80, 3 * 2 * 16 * 16), "image_grid_thw": torch.tensor([(1, 8, 10)])}
    types = (ids == model.config.image_token_id).long()
    model(input_ids=ids, mm_token_type_ids=types, **image).logits.float().square().mean().backward()
dist.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.engine
def test_angles_of_images_keep_their_precision(tmp_path):
    cases = ("actor-2b", "actor-4b", "actor-8b", "ref-8b")
    command = [sys.executable, "-c", IN_UNITS, str(tmp_path), *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torch.float32", "torch.float32"] * len(cases)


@pytest.mark.slow
def test_a_run_with_more_epochs_resumes_at_the_rate_of_its_longer_schedule():
    done = subprocess.run([sys.executable, "-c", MORE_EPOCHS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended, resumed, uninterrupted = map(float, done.stdout.split())
    assert ended == 0 < resumed == uninterrupted
