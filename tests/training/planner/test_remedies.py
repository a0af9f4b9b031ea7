from dataclasses import replace

import pytest

from qwen3vl_rl.training import preflight
from qwen3vl_rl.training.gpus import GPUS
from qwen3vl_rl.training.memory import problems
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.remedies import remedies
from qwen3vl_rl.training.workload import ROLES, compose_recipe

pytestmark = pytest.mark.slow

MEMORY_GIB = 140.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gpus": 1}, "hardware=gpu2"),
        ({"rollout_sleeps": False}, "gpu_memory_utilization=0.6"),
        ({"tokens_per_micro_batch": 256_000}, "ppo_max_token_len_per_gpu=128000"),
    ],
)
def test_remedies_name_the_mildest_change_that_fits(run_8b, constants, change, expected):
    run = replace(run_8b, **change)
    assert problems(run, MEMORY_GIB, constants)
    assert any(expected in words for words in remedies(run, MEMORY_GIB, constants))


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["size=8b", "hardware=gpu1"],
        ["size=8b", "hardware=gpu2", "speed=fast"],
        ["size=8b", "hardware=node8", "trainer.n_gpus_per_node=4", "speed=fast"],
        ["size=4b", "hardware=node8", "trainer.n_gpus_per_node=1", "speed=fast"],
        ["size=8b", "hardware=gpu1", "data.train_batch_size=10", f"{ROLES}.actor.ppo_mini_batch_size=10"],
        ["size=8b", "hardware=gpu1", f"{ROLES}.actor.fsdp_config.no_shard=true"],
        ["size=4b", "hardware=gpu1", "speed=fast"],
        ["size=2b", "hardware=gpu1", f"{ROLES}.rollout.free_cache_engine=false"],
        ["size=8b", "hardware=node8", f"{ROLES}.actor.ppo_max_token_len_per_gpu=200000"],
    ],
    ids=lambda words: " ".join(words).replace(ROLES, ""),
)
def test_a_remedy_is_a_valid_override_and_fits(read, words):
    memory_gib, (constants, _) = GPUS["h100"].memory_gib, read_constants()
    assert problems(read(*words), memory_gib, constants)
    found = [remedy.split() for remedy in remedies(read(*words), memory_gib, constants)]
    assert found
    for remedy in found:
        changed = {override.partition("=")[0] for override in remedy}
        typed = [*(word for word in words if word.partition("=")[0] not in changed), *remedy]
        preflight.check_numbers(compose_recipe(typed))
        preflight.check_engine_flags(compose_recipe(typed))
        run = read(*typed)
        assert problems(run, memory_gib, constants) == [], remedy
        assert run.tokens_per_micro_batch >= run.longest_sequence_tokens
