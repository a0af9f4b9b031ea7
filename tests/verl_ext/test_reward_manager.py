"""What our reward manager adds, with verl's own tensors and estimators."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.reward import load_reward_manager

from examples.starter.build import build_processor
from qwen3vl_rl.grounding import answer_text
from qwen3vl_rl.verl_ext.reward_manager import exact_in_sums

TRUTH = [100, 200, 500, 600]


def test_the_recipe_selects_the_manager_and_it_counts_tokens():
    tokenizer = build_processor().tokenizer
    ids = tokenizer.encode(f"It is the left cup.\n</think>\n\n{answer_text(TRUTH, 'cup')}")
    kwargs = {"reward_type": "efficient", "alpha": 0.5, "threshold": 0.5, "parser": "strict", "budget_tokens": 2}
    manager = {"source": "importlib", "name": "GroundingRewardManager"}
    manager["module"] = {"path": "pkg://qwen3vl_rl.verl_ext.reward_manager"}
    function = {"path": "pkg://qwen3vl_rl.reward", "name": "compute_score", "reward_kwargs": kwargs}
    config = OmegaConf.create({"reward": {"reward_manager": manager, "custom_reward_function": function}})
    sample = DataProto.from_dict(
        tensors={
            "prompts": torch.ones(1, 3, dtype=torch.long),
            "responses": torch.tensor([ids + [tokenizer.pad_token_id] * 9]),  # padded on the right
            "attention_mask": torch.tensor([[1] * 3 + [1] * len(ids) + [0] * 9]),
        },
        non_tensors={
            "data_source": np.array(["grounding"], dtype=object),
            "reward_model": np.array([{"ground_truth": TRUTH}], dtype=object),
            "extra_info": np.array([{"split": "train", "width": 1000, "height": 1000}], dtype=object),
        },
    )

    async def run() -> dict:
        return await load_reward_manager(config, tokenizer).run_single(sample)

    assert asyncio.run(run())["reward_score"] == exact_in_sums(2 / len(ids))


def advantages(score: float, answers: int) -> torch.Tensor:
    """Advantages of `answers` answers to one prompt that all have this score."""
    rewards = torch.zeros(answers, 3)
    rewards[:, -1] = score
    return compute_grpo_outcome_advantage(rewards, torch.ones(answers, 3), np.array(["prompt"] * answers))[0]


@given(score=st.floats(-1, 1), answers=st.integers(1, 256))
def test_equal_scores_have_no_advantage(score, answers):
    assert exact_in_sums(score) == pytest.approx(score, abs=2**-17)
    assert answers == 1 or not advantages(exact_in_sums(score), answers).any()


def test_without_rounding_equal_scores_would_have_an_advantage():
    """If this test fails, a newer verl or torch has fixed this, and the rounding of scores can be removed."""
    assert max(advantages(score, 16).abs().max() for score in np.linspace(0, 1, 301)) > 0.05
