from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.training.gpus import GPUS
from qwen3vl_rl.training.memory import update_memory_gib
from qwen3vl_rl.training.planner.constants import Constants
from qwen3vl_rl.training.planner.timing import at_width, checkpoint_s, step_seconds, validation_s
from qwen3vl_rl.training.workload import Run

GPU = GPUS["h200"]


def step_s(run: Run, constants: Constants) -> float:
    return sum(step_seconds(run, GPU, constants).values())


def update_gib(run: Run, constants: Constants) -> float:
    return sum(update_memory_gib(run, GPU.memory_gib, constants).values())


@given(gpus=st.sampled_from([1, 2, 4]), answer_tokens=st.integers(1, 2048), prompts=st.integers(16, 512))
def test_more_gpus_need_less_memory_and_more_work_takes_longer(run_8b, constants, gpus, answer_tokens, prompts):
    run = replace(run_8b, gpus=gpus, answer_tokens=answer_tokens, prompts=prompts)
    assert update_gib(replace(run, gpus=8), constants) < update_gib(run, constants)
    assert step_s(replace(run, gpus=8), constants) < step_s(run, constants)
    assert step_s(replace(run, answer_tokens=answer_tokens + 1), constants) > step_s(run, constants)
    assert step_s(replace(run, prompts=prompts + 16), constants) > step_s(run, constants)
    resident = replace(run, param_offload=False, optimizer_offload=False, ref_offload=False)
    assert step_s(resident, constants) < step_s(run, constants)


def test_values_are_linear_between_measured_widths_and_constant_beyond():
    values = {4096: 0.4, 2048: 0.2}
    assert [at_width(values, width) for width in (192, 2048, 2560, 4096, 5120)] == pytest.approx(
        [0.2, 0.2, 0.25, 0.4, 0.4]
    )


def test_sglang_s_rollouts_take_longer(read, constants):
    run = read("size=2b", "hardware=gpu1", "engine=vllm")
    assert step_s(replace(run, rollout_engine="sglang"), constants) > step_s(run, constants)


def test_validations_and_checkpoints_are_counted(read, constants):
    run = read("trainer.test_freq=10", "trainer.save_freq=-1", "trainer.total_epochs=1")
    assert (run.steps, run.validations, run.checkpoints) == (3, 2, 0)  # before the first step and after the last
    assert replace(run, test_freq=-1, val_before_train=False).validations == 0
    assert validation_s(replace(run, val_rows=2 * run.val_rows), GPU, constants) > validation_s(run, GPU, constants)
    two_nodes = replace(run, gpus=2 * run.gpus)
    assert checkpoint_s(run, constants) == pytest.approx(2 * checkpoint_s(two_nodes, constants))
