from dataclasses import replace

import pytest

from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.memory import GIB, problems, reserved_gib, update_memory_gib
from qwen3vl_rl.training.planner.constants import Constants
from qwen3vl_rl.training.workload import Run

pytestmark = pytest.mark.slow

MEMORY_GIB = 140.0


def update_gib(run: Run, constants: Constants) -> float:
    return sum(update_memory_gib(run, MEMORY_GIB, constants).values())


def test_training_state_is_sixteen_bytes_a_parameter(run_8b, constants):
    parts = update_memory_gib(replace(run_8b, gpus=1), MEMORY_GIB, constants)
    assert parts["weights, gradients, Adam moments"] == pytest.approx(16 * run_8b.shape.parameters / GIB)


def test_several_gpus_gather_embeddings_and_tower_whole_and_layers_one_by_one(run_8b, constants):
    gathered = update_memory_gib(run_8b, MEMORY_GIB, constants)["weights in 16 bits"] * GIB / BF16_BYTES
    shape = run_8b.shape
    assert gathered > shape.vision.parameters + 2 * shape.vocab_size * shape.hidden_size
    assert gathered < shape.parameters / 2


def test_logits_of_prompts_cost_memory_and_work_where_they_are_computed(read, run_8b, constants):
    every = read("size=qwen3vl_8b", "hardware=node8", "actor_rollout_ref.actor.fsdp_config.response_logits_only=false")
    assert run_8b.response_logits_only and not every.response_logits_only
    assert every.forward_flops > run_8b.forward_flops
    assert update_gib(every, constants) > update_gib(run_8b, constants) + 10


def test_8b_fits_a_node_and_not_one_gpu(run_8b, constants):
    assert problems(run_8b, MEMORY_GIB, constants) == []
    assert problems(replace(run_8b, gpus=1), MEMORY_GIB, constants)


def test_adapters_of_8b_fit_one_gpu(read, constants):
    share = "actor_rollout_ref.rollout.gpu_memory_utilization=0.3"
    adapted = read("size=qwen3vl_8b", "hardware=gpu1", "speed=fast", "tuning=lora", share)
    assert problems(adapted, MEMORY_GIB, constants) == []
    assert not adapted.holds_reference
    assert adapted.trained_bytes < 0.02 * adapted.weight_bytes < 0.02 * 2 * adapted.actor_bytes
    assert update_gib(adapted, constants) < update_gib(read("size=qwen3vl_2b", "hardware=gpu1"), constants)


def test_small_gpus_reserve_a_share_and_large_ones_what_was_measured(constants):
    assert reserved_gib(140, constants) == reserved_gib(79, constants) == constants.reserved_gib
    assert reserved_gib(79 / 4, constants) == constants.reserved_gib / 4
