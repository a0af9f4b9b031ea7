"""Checks before a GPU is used: whether data, model, settings and machine allow stage 2 to run.

Stage 1 shares some of them (`sft/train.py`). Every check raises InputError with one line that says what to change.
Nothing here imports torch or verl.
"""

from omegaconf import DictConfig

from qwen3vl_rl.reward import check_settings
from qwen3vl_rl.training.preflight.family import check_family, check_family_engine
from qwen3vl_rl.training.preflight.lengths import check_prompt_lengths
from qwen3vl_rl.training.preflight.machine import check_gpus, check_gpus_here, check_memory, check_rollout_engine
from qwen3vl_rl.training.preflight.resume import SAME_RUN, check_reward_files, check_whole
from qwen3vl_rl.training.preflight.rows import check_reward_columns, check_rows, check_steps, check_texts
from qwen3vl_rl.training.preflight.settings import (
    check_adapters,
    check_agent_loop,
    check_engine_flags,
    check_filter,
    check_fsdp_wrapping,
    check_lengths,
    check_liger,
    check_numbers,
    check_on_policy,
    check_one_gpu,
    check_response_logits,
    check_sampler,
    check_strategy,
    check_trainer,
)
from qwen3vl_rl.training.recipe import check_paths
from qwen3vl_rl.training.run_folder import check_same_run, check_same_workers, record_data_hash

__all__ = [  # in addition to `check`: used by stage 1 and the planner
    "check",
    "check_adapters",
    "check_engine_flags",
    "check_family",
    "check_gpus_here",
    "check_lengths",
    "check_liger",
    "check_numbers",
    "check_on_policy",
    "check_one_gpu",
    "check_response_logits",
    "check_rows",
    "check_steps",
    "check_strategy",
    "check_texts",
    "check_whole",
]


def check(config: DictConfig) -> int:
    """Run all checks of stage 2, the cheap ones first. Returns the number of steps of the run."""
    check_paths(config, "actor_rollout_ref.model.path", "data.train_files", "data.val_files")
    check_settings(**config.reward.custom_reward_function.reward_kwargs)
    check_numbers(config)
    check_lengths(config)
    check_whole(config)
    check_engine_flags(config)
    check_family(
        config, "actor_rollout_ref.model.path", "actor_rollout_ref.actor.fsdp_config", "data.mm_processor_kwargs"
    )
    check_family_engine(config)
    check_fsdp_wrapping(config)
    check_trainer(config)
    check_agent_loop(config)
    check_on_policy(config)
    check_sampler(config)
    check_filter(config)
    check_rollout_engine(config)
    check_gpus(config)
    check_memory(config)
    rows = {key: check_rows(config, key) for key in ("data.train_files", "data.val_files")}
    for key in rows:
        check_reward_columns(config, key)
        check_texts(config, key, "prompt", "actor_rollout_ref.model.path")
        rows[key] = check_prompt_lengths(config, key, rows[key])
        record_data_hash(config, key)
    check_same_run(config, SAME_RUN)
    check_reward_files(config)
    check_same_workers(config, "data.dataloader_num_workers")
    most = config.data.train_max_samples
    return check_steps(config, rows["data.train_files"] if most < 0 else min(most, rows["data.train_files"]))
