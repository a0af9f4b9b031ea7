"""Every variant composes into a recipe that verl accepts, so that no GPU run fails at a misspelt key."""

import argparse
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass, validate_config

from benchmarks import grpo_step
from qwen3vl_rl.training.workload import compose_recipe

pytestmark = pytest.mark.slow


@cache
def compose(variant: str, engine: str = "vllm", gpus: int = 1, size: str = "2b"):
    settings = argparse.Namespace(
        size=size,
        engine=engine,
        hardware="node8" if gpus == 4 else f"gpu{gpus}",
        gpus=gpus,
        prompts=16,
        samples_per_prompt=16,
        answer_tokens=100,
        steps=3,
        set=[],
    )
    return compose_recipe(grpo_step.recipe(settings, Path("model"), Path("rows"), variant, Path("out")))


@pytest.mark.parametrize("gpus", [1, 2, 4])
@pytest.mark.parametrize("engine", grpo_step.ENGINES)
def test_all_changes_together_are_accepted_by_verl(engine, gpus):
    config = compose("+".join(grpo_step.CHANGES), engine, gpus)
    validate_config(config, use_reference_policy=True, use_critic=False)
    for part in (config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout):
        omega_conf_to_dataclass(part)
    assert config.trainer.n_gpus_per_node == gpus
    assert config.actor_rollout_ref.rollout.name == engine


@pytest.mark.parametrize("word", sorted(grpo_step.CHANGES.keys() - {"released", "shipped"}))
def test_every_change_alters_the_recipe(word):
    other = "chunked" if word == "awake" else "awake"
    gpus = 1 if word == "sharded" else 2
    plain, changed = (
        OmegaConf.masked_copy(compose(variant, gpus=gpus, size="8b"), ["actor_rollout_ref", "algorithm"])
        for variant in (other, f"{other}+{word}")
    )
    assert plain != changed


def test_fast_equals_its_parts_that_were_measured():
    """On one GPU, where `speed=fast` does not shard."""
    fast, words = (compose(variant) for variant in ("fast", "resident+chunked+on-policy+fused-adamw+compile+no-shard"))
    for config in (fast, words):
        del config.hydra
    assert fast == words


def test_ratios_are_to_the_first_variant_that_ran():
    results = [{"variant": "a", "error": "x"}, {"variant": "b", "steps": [4.0, 6.0]}, {"variant": "c", "steps": [2.0]}]
    grpo_step.ratios(results)
    assert results[2]["speed_relative_to_b"] == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert "speed_relative_to_b" not in results[1]
